"""An object in a bucket: botocore, boto3's core, finds credentials and signs; the bytes travel like those of any URL.

The object is asked for by presigned URLs, so one engine has the retries, the pin and the checks. A URL is signed anew
when it ages or is refused, which is how expiring credentials are replaced in the middle of a download. The error body
of a ranged GET names what is wrong (bucket, key, credentials, region); a HEAD would not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from preheat.blob import Blob, Patience
from preheat.errors import CheckpointError
from preheat.runs.listing import Entry
from preheat.sources.http_answer import Headers
from preheat.sources.http_blob import HttpBlob
from preheat.sources.s3_listing import list_keys
from preheat.sources.s3_service import ElsewhereError, Service, refused

if TYPE_CHECKING:
    from preheat.sources.s3 import S3Source

Answer = TypeVar("Answer")


class S3Folder:
    """The keys that begin like the source's; raises a CheckpointSourceError that says what is missing."""

    def __init__(self, source: S3Source, prefix: str, patience: Patience) -> None:
        self.uri = f"s3://{source.bucket}/{prefix}"
        self._source = source
        self._prefix = prefix
        self._patience = patience
        self._service = Service.reach(source, patience)

    def names(self) -> None:
        """Nothing: who may read objects need not be allowed to list them."""

    def open(self, name: str) -> Blob:
        """Ask for size and version of an object."""
        # One version id can be that of one object only: the one that the source names.
        key = self._prefix + name
        source = self._source if self._is_named(key) else replace(self._source, key=key, version_id=None)
        return self._asked(lambda: S3Blob(source, self._service, self._patience))

    def entries(self) -> list[Entry]:
        """Every key that begins so."""
        return self._asked(lambda: list(list_keys(self._source, self._prefix, self._service, self._patience)))

    def _asked(self, ask: Callable[[], Answer]) -> Answer:
        """What `ask` answers, in the bucket's own region where none is set."""
        try:
            return ask()
        except ElsewhereError as elsewhere:
            if self._source.region or self._source.endpoint:
                raise
            self._service = Service.reach(self._source, self._patience, elsewhere.region)
            return ask()

    def _is_named(self, key: str) -> bool:
        return key == self._source.key.lstrip("/")


class S3Blob(HttpBlob):
    """One version of an object; in a versioned bucket it stays readable while a newer one is written."""

    def __init__(self, source: S3Source, service: Service, patience: Patience) -> None:
        self._source = source
        self._version_id = source.version_id
        self._service = service
        # It is part of what is signed, as a header.
        headers = {"x-amz-request-payer": "requester"} if source.requester_pays else {}
        super().__init__("", uri=source.uri, headers=headers, patience=patience, connections=service.connections)

    def locate(self) -> str:
        """A freshly signed URL."""
        parameters = {"Bucket": self._source.bucket, "Key": self._source.key.lstrip("/")}
        parameters |= {"RequestPayer": "requester"} if self._source.requester_pays else {}
        if self._version_id:
            parameters["VersionId"] = self._version_id
        return self._service.sign(self._source, "get_object", parameters)

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
        return refused(self._source, status, phrase, headers, body)
