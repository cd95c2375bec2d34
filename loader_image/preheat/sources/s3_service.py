"""The services of S3: whose credentials sign, in which region, over which connections, and what their refusals mean.

botocore is imported here and nowhere else. Requests are signed as URLs, so one engine moves the bytes of all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)

from preheat.blob import Patience
from preheat.errors import (
    AccessDeniedError,
    CheckpointConfigError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointSourceError,
)
from preheat.sources.http_answer import Headers, refusal
from preheat.sources.http_connection import Connections

if TYPE_CHECKING:
    from preheat.sources.s3 import S3Source

SIGNED_SECONDS = 3600

CREDENTIALS_REMEDY = (
    "Let the pod's serviceAccountName grant s3:GetObject (in a versioned bucket s3:GetObjectVersion too), or name a "
    "Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in secretRef"
)

#: With a region beside it, each means that the request was signed for another one.
_ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "AuthorizationQueryParametersError")
_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")
_REGION = re.compile(rb"<Region>([a-z0-9-]{1,64})</Region>")


class ElsewhereError(CheckpointSourceError):
    """The bucket is in another region, which the service named."""

    def __init__(self, message: str, region: str) -> None:
        super().__init__(message, remedy=f"Set region: {region}")
        self.region = region


@dataclass(frozen=True)
class Service:
    """What the objects of one source share."""

    client: Any
    connections: Connections

    @classmethod
    def reach(cls, source: S3Source, patience: Patience, region: str | None = None) -> Service:
        """The service of a source, in the region that it names if nobody else does."""
        session = botocore.session.Session(profile=source.profile)
        region = region or source.region or os.environ.get("AWS_REGION")
        with explained(source.uri):
            client = _client(session, source, region, patience)
            authorities = source.ca_bundle or _authorities(session.get_config_variable("ca_bundle"))
            return cls(client, Connections(authorities))

    def sign(self, source: S3Source, operation: str, parameters: Mapping[str, Any]) -> str:
        """The URL of an operation, named as botocore names it; what is a header has to be sent as it was signed."""
        with explained(source.uri):
            url: str = self.client.generate_presigned_url(operation, Params=dict(parameters), ExpiresIn=SIGNED_SECONDS)
        return url


def refused(
    source: S3Source, status: int, phrase: str, headers: Headers, body: bytes, remedy: str = CREDENTIALS_REMEDY
) -> CheckpointError:
    """The error that a service's answer stands for, by its own code; `remedy` is for a lack of rights."""
    code = found[1].decode() if (found := _CODE.search(body)) else phrase
    region = headers.get("x-amz-bucket-region") or (found[1].decode() if (found := _REGION.search(body)) else None)
    if region and (status == 301 or code in _ELSEWHERE):
        return ElsewhereError(f"bucket {source.bucket!r} is in region {region}", region)
    return _refusal(source, status, code, remedy)


def _client(session: Any, source: S3Source, region: str | None, patience: Patience) -> Any:
    wait = min(patience.timeout_seconds, 30)
    config = Config(
        signature_version=UNSIGNED if source.anonymous else "s3v4",
        s3={"addressing_style": source.addressing},
        connect_timeout=wait,
        read_timeout=wait,
        retries={"total_max_attempts": patience.max_retries + 1},  # of the services that hand out credentials
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    region = region or session.get_config_variable("region") or "us-east-1"
    return session.create_client("s3", region_name=region, endpoint_url=source.endpoint, config=config)


def _authorities(file: str | None) -> str | None:
    """The certificates in the file that AWS_CA_BUNDLE or the profile names."""
    if not file:
        return None
    try:
        return Path(file).read_text(encoding="ascii", errors="ignore")
    except OSError as error:
        raise CheckpointConfigError(
            f"the certificates of {file} cannot be read: {error.strerror}",
            remedy="Correct AWS_CA_BUNDLE, or use caBundle",
        ) from error


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what botocore raises while it looks for credentials and signs into errors of ours."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise AccessDeniedError(f"there are no credentials for {uri}", remedy=CREDENTIALS_REMEDY) from error
    except ClientError as error:  # of STS, which trades the pod's token for credentials
        code = error.response.get("Error", {}).get("Code", "unknown")
        raise AccessDeniedError(f"no credentials for {uri}: STS answered {code}", remedy=CREDENTIALS_REMEDY) from error
    except (BotoConnectionError, HTTPClientError) as error:
        raise CheckpointSourceError(
            f"the service with the credentials for {uri} cannot be reached", remedy="Check the pod's network"
        ) from error
    except NoRegionError as error:
        raise CheckpointConfigError(f"no region is set for {uri}", remedy="Set region") from error
    except (BotoCoreError, ValueError) as error:
        raise CheckpointConfigError(f"{uri}: {error}", remedy="Check the source's parameters") from error


def _refusal(source: S3Source, status: int, code: str, remedy: str) -> CheckpointError:
    if code == "NoSuchBucket":
        return CheckpointNotFoundError(f"there is no bucket {source.bucket!r}", remedy="Check `bucket` and `endpoint`")
    if code == "NoSuchVersion":
        return CheckpointNotFoundError(f"{source.uri} has no version {source.version_id!r}", remedy="Check `versionId`")
    if status in (404, 410):
        return CheckpointNotFoundError(
            f"bucket {source.bucket!r} has no key {source.key.lstrip('/')!r}", remedy="Check `key`"
        )
    if status in (401, 403) or code in ("ExpiredToken", "InvalidToken", "TokenRefreshRequired"):
        return AccessDeniedError(f"{source.uri}: the service answered {status} {code}", remedy=remedy)
    return refusal(source.uri, status, code)
