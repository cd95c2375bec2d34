"""An object in a bucket: botocore, boto3's core, finds credentials and signs; the bytes travel like those of any URL.

The object is asked for by presigned URLs, so one engine has the retries, the pin and the checks. A URL is signed anew
when it ages or is refused, which is how expiring credentials are replaced in the middle of a download. The error body
of a ranged GET names what is wrong (bucket, key, credentials, region); a HEAD would not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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

from preheat.blob import Blob, Patience
from preheat.errors import (
    AccessDeniedError,
    CheckpointConfigError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointSourceError,
)
from preheat.sources.http_answer import Headers, refusal
from preheat.sources.http_blob import HttpBlob
from preheat.sources.http_connection import Connections
from preheat.sources.s3 import S3Source

SIGNED_SECONDS = 3600

_CREDENTIALS_REMEDY = (
    "Let the pod's serviceAccountName grant s3:GetObject (in a versioned bucket s3:GetObjectVersion too), or name a "
    "Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in secretRef"
)
#: With a region beside it, each means that the request was signed for another one.
_ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "AuthorizationQueryParametersError")
_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")
_REGION = re.compile(rb"<Region>([a-z0-9-]{1,64})</Region>")


class _ElsewhereError(CheckpointSourceError):
    """The bucket is in another region, which the service named."""

    def __init__(self, message: str, region: str) -> None:
        super().__init__(message, remedy=f"Set region: {region}")
        self.region = region


@dataclass(frozen=True)
class _Service:
    """What the objects of one source share."""

    client: Any
    connections: Connections

    @classmethod
    def reach(cls, source: S3Source, region: str | None, patience: Patience) -> _Service:
        session = botocore.session.Session(profile=source.profile)
        with _explained(source.uri):
            client = _client(session, source, region, patience)
            authorities = source.ca_bundle or _authorities(session.get_config_variable("ca_bundle"))
            return cls(client, Connections(authorities))


class S3Folder:
    """The keys that begin like the source's; raises a CheckpointSourceError that says what is missing."""

    def __init__(self, source: S3Source, prefix: str, patience: Patience) -> None:
        self.uri = f"s3://{source.bucket}/{prefix}"
        self._source = source
        self._prefix = prefix
        self._patience = patience
        self._service = _Service.reach(source, source.region or os.environ.get("AWS_REGION"), patience)

    def names(self) -> None:
        """Nothing: who may read objects need not be allowed to list them."""

    def open(self, name: str) -> Blob:
        """Ask for size and version of an object."""
        # One version id can be that of one object only: the one that the source names.
        key = self._prefix + name
        source = self._source if self._is_named(key) else replace(self._source, key=key, version_id=None)
        try:
            return S3Blob(source, self._service, self._patience)
        except _ElsewhereError as elsewhere:
            if source.region or source.endpoint:
                raise
            self._service = _Service.reach(source, elsewhere.region, self._patience)
            return S3Blob(source, self._service, self._patience)

    def _is_named(self, key: str) -> bool:
        return key == self._source.key.lstrip("/")


class S3Blob(HttpBlob):
    """One version of an object; in a versioned bucket it stays readable while a newer one is written."""

    def __init__(self, source: S3Source, service: _Service, patience: Patience) -> None:
        self._source = source
        self._version_id = source.version_id
        self._client = service.client
        # It is part of what is signed, as a header.
        headers = {"x-amz-request-payer": "requester"} if source.requester_pays else {}
        super().__init__("", uri=source.uri, headers=headers, patience=patience, connections=service.connections)

    def locate(self) -> str:
        """A freshly signed URL."""
        parameters = {"Bucket": self._source.bucket, "Key": self._source.key.lstrip("/")}
        parameters |= {"RequestPayer": "requester"} if self._source.requester_pays else {}
        if self._version_id:
            parameters["VersionId"] = self._version_id
        with _explained(self.uri):
            url: str = self._client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=SIGNED_SECONDS)
        return url

    def name_version(self, headers: Headers, size: int) -> str:
        """The version id of a versioned bucket, else the ETag."""
        found = headers.get("x-amz-version-id")
        if not found or found == "null":
            return super().name_version(headers, size)
        if not self._version_id:
            self._version_id = found
            self.forget_location()  # it was signed for the newest version, whichever that is by then
        return f"versionId:{found}"

    def refuse(self, status: int, phrase: str, headers: Headers, body: bytes) -> CheckpointError:
        """The error that the service's own code stands for."""
        code = found[1].decode() if (found := _CODE.search(body)) else phrase
        region = headers.get("x-amz-bucket-region") or (found[1].decode() if (found := _REGION.search(body)) else None)
        if region and (status == 301 or code in _ELSEWHERE):
            return _ElsewhereError(f"bucket {self._source.bucket!r} is in region {region}", region)
        return _refusal(self._source, status, code)


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


def _refusal(source: S3Source, status: int, code: str) -> CheckpointError:
    if code == "NoSuchBucket":
        return CheckpointNotFoundError(f"there is no bucket {source.bucket!r}", remedy="Check `bucket` and `endpoint`")
    if code == "NoSuchVersion":
        return CheckpointNotFoundError(f"{source.uri} has no version {source.version_id!r}", remedy="Check `versionId`")
    if status in (404, 410):
        return CheckpointNotFoundError(
            f"bucket {source.bucket!r} has no key {source.key.lstrip('/')!r}", remedy="Check `key`"
        )
    if status in (401, 403) or code in ("ExpiredToken", "InvalidToken", "TokenRefreshRequired"):
        return AccessDeniedError(f"{source.uri}: the service answered {status} {code}", remedy=_CREDENTIALS_REMEDY)
    return refusal(source.uri, status, code)


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn what botocore raises while it looks for credentials and signs into errors of ours."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise AccessDeniedError(f"there are no credentials for {uri}", remedy=_CREDENTIALS_REMEDY) from error
    except ClientError as error:  # of STS, which trades the pod's token for credentials
        code = error.response.get("Error", {}).get("Code", "unknown")
        raise AccessDeniedError(f"no credentials for {uri}: STS answered {code}", remedy=_CREDENTIALS_REMEDY) from error
    except (BotoConnectionError, HTTPClientError) as error:
        raise CheckpointSourceError(
            f"the service with the credentials for {uri} cannot be reached", remedy="Check the pod's network"
        ) from error
    except NoRegionError as error:
        raise CheckpointConfigError(f"no region is set for {uri}", remedy="Set region") from error
    except (BotoCoreError, ValueError) as error:
        raise CheckpointConfigError(f"{uri}: {error}", remedy="Check the source's parameters") from error
