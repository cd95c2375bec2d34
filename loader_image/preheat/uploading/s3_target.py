"""A bucket that is written to: files in parts, which stay at the server when this process dies and are not sent again.

Which parts are there is asked of the server; nothing is written down here. Every part carries its CRC-64, and the whole
is put together under the CRC-64 of all. A service that knows none is held to its ETags, the MD5 of what it has.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from preheat.blob import Patience
from preheat.errors import AccessDeniedError, CheckpointError, CheckpointSourceError, CheckpointValidationError
from preheat.sources.s3 import S3Source
from preheat.sources.s3_service import ElsewhereError, Service, refused
from preheat.transfer.checksum import Crc64
from preheat.uploading.content import Content, Passed
from preheat.uploading.multipart import Multipart, check_arrived
from preheat.uploading.parts import PART, Part, parts_of, spelled
from preheat.uploading.sending import Reply, Sender, Stretch, Text, full, paced

_REMEDY = (
    "Let the pod's serviceAccountName grant s3:PutObject, s3:GetObject, s3:ListBucketMultipartUploads, "
    "s3:ListMultipartUploadParts and s3:AbortMultipartUpload there, or name a Secret with AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY in secretRef"
)
_OWN_PLACE = "Another may write there: give each training a place of its own"
#: How services say that they do not know a header.
_UNKNOWN = (b"NotImplemented", b"InvalidRequest", b"InvalidArgument", b"InvalidDigest")

log = logging.getLogger(__name__)


class S3Target:
    """The keys that begin like the source's."""

    def __init__(self, source: S3Source, patience: Patience) -> None:
        self._prefix = source.key.lstrip("/")
        self._prefix += "" if self._prefix.endswith("/") or not self._prefix else "/"
        self.uri = f"s3://{source.bucket}/{self._prefix}"
        self._source = replace(source, version_id=None)
        self._patience = patience
        self._checksums = True  # until the service refuses them
        self._reach()

    def _reach(self, region: str | None = None) -> None:
        self._service = Service.reach(self._source, self._patience, region)
        self._sender = Sender(self.uri, self._service.connections, self._patience)

    def put(self, content: Content, name: str, advance: Passed) -> bool:
        """Send the file, in parts when it is large, unless an object of the same checksum is there."""
        found = self._head(name)
        if found and self._holds(content, found):
            advance(content.size)
            return False
        new = found is None  # one that appears meanwhile is another's, and is not replaced
        size, passed = paced(advance)
        if content.size <= PART:
            checksum = self._put_whole(content, name, passed, new)
        else:
            checksum = Multipart(self, content, name, size, passed, advance).run(new)
        content.check()
        self._verify(content, name, checksum)
        return True

    def read(self, name: str) -> bytes | None:
        """A document; None when it is not there."""
        reply = self.ask("GET", "get_object", name)
        if reply.status == 404 and b"NoSuchBucket" not in reply.body:
            return None
        if not reply.good:
            raise self._refusal(reply)
        return reply.body

    def write(self, name: str, document: bytes) -> None:
        """Replace a document."""
        checksum = Crc64()
        checksum.update(memoryview(document))
        self.good(self._put(name, Text(document), spelled(checksum), lambda count: None, new=False))

    def remove(self, name: str) -> None:
        """Remove an object."""
        self.good(self.ask("DELETE", "delete_object", name))

    def close(self) -> None:
        """Close every connection."""
        self._sender.close()

    # What the parts of an upload are sent by, too.

    def ask(
        self,
        method: str,
        operation: str,
        name: str | None,
        parameters: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Text | Stretch | None = None,
        advance: Passed = lambda count: None,
    ) -> Reply:
        """What the service says to an operation on an object, or on the bucket; headers are signed as parameters."""
        given: dict[str, Any] = {"Bucket": self._source.bucket, **(parameters or {})}
        sent = dict(headers or {})
        if name is not None:
            given["Key"] = self.key(name)
        if self._source.requester_pays:
            given["RequestPayer"], sent["x-amz-request-payer"] = "requester", "requester"
        reply = self._sender.ask(
            method, lambda: (self._service.sign(self._source, operation, given), sent), body, advance=advance
        )
        elsewhere = None if reply.good else self._refusal(reply)
        if isinstance(elsewhere, ElsewhereError) and not (self._source.region or self._source.endpoint):
            self._source = replace(self._source, region=elsewhere.region)
            self._reach(elsewhere.region)
            return self.ask(method, operation, name, parameters, headers, body, advance)
        return reply

    def key(self, name: str) -> str:
        """The key of a name."""
        return self._prefix + name

    def good(self, reply: Reply) -> Reply:
        """The reply, or its refusal raised."""
        if not reply.good or b"<Error>" in reply.body[:200]:
            raise self._refusal(reply)
        return reply

    def checksum(self, crc64: str) -> tuple[dict[str, Any], dict[str, str]]:
        """A checksum as parameter and as header; neither where the service knows none."""
        if not self._checksums:
            return {}, {}
        return {"ChecksumCRC64NVME": crc64}, {"x-amz-checksum-crc64nvme": crc64}

    @property
    def checksums(self) -> bool:
        """Whether the service knows checksums, as far as that was seen."""
        return self._checksums

    def knows_none(self, reply: Reply) -> bool:
        """Whether the service refuses for the checksum's sake; from then on none is sent."""
        if self._checksums and reply.status in (400, 501) and any(code in reply.body for code in _UNKNOWN):
            log.info("%s knows no CRC-64: what it has is compared by its ETags", self.uri)
            self._checksums = False
            return True
        return False

    def is_there(self, content: Content, name: str) -> bool:
        """Whether an object with these bytes is there."""
        found = self._head(name)
        return found is not None and self._holds(content, found)

    def interrupt(self) -> None:
        """End what is under way in other threads."""
        ended, self._sender = self._sender, Sender(self.uri, self._service.connections, self._patience)
        ended.close()

    def _holds(self, content: Content, found: Reply) -> bool:
        if found.headers.get("Content-Length") != str(content.size):
            return False
        if told := found.headers.get("x-amz-checksum-crc64nvme"):
            return told == spelled(content.crc64(0, content.size))
        return found.headers.get("ETag") == _etag_of(content)

    def _put_whole(self, content: Content, name: str, advance: Passed, new: bool) -> str:
        crc64 = spelled(content.crc64(0, content.size))
        reply = self._put(name, Stretch(content, 0, content.size), crc64, advance, new=new)
        if reply.status != 412 or not self.is_there(content, name):
            check_arrived(self.uri + name, self.good(reply), content, Part(1, 0, content.size), crc64)
        return crc64

    def _put(self, name: str, body: Text | Stretch, crc64: str, advance: Passed, *, new: bool) -> Reply:
        parameters, headers = self.checksum(crc64)
        if new:
            parameters, headers = {**parameters, "IfNoneMatch": "*"}, {**headers, "If-None-Match": "*"}
        reply = self.ask("PUT", "put_object", name, parameters, headers, body, advance)
        if reply.status == 501 and new:  # the condition is newer than many services
            advance(-body.size)
            return self._put(name, body, crc64, advance, new=False)
        if self.knows_none(reply):
            advance(-body.size)
            return self._put(name, body, crc64, advance, new=new)
        return reply

    def _head(self, name: str) -> Reply | None:
        reply = self.ask("HEAD", "head_object", name, {"ChecksumMode": "ENABLED"}, {"x-amz-checksum-mode": "ENABLED"})
        # Without the right to list, a service says 403 of what is not there.
        return reply if reply.good else None

    def _verify(self, content: Content, name: str, checksum: str) -> None:
        found = self._head(name)
        if found is None:
            raise AccessDeniedError(f"{self.uri}{name} was sent and cannot be seen", remedy=_REMEDY)
        size, told = found.headers.get("Content-Length"), found.headers.get("x-amz-checksum-crc64nvme")
        if size != str(content.size) or (told and told != checksum):
            raise CheckpointValidationError(
                f"{self.uri}{name} has another size or checksum than {content.path}: {size} bytes of {content.size}",
                remedy=_OWN_PLACE,
            )

    def _refusal(self, reply: Reply) -> CheckpointError:
        if reply.status == 507 or b"QuotaExceeded" in reply.body or b"XMinioStorageFull" in reply.body:
            return full(self.uri, reply.status)
        if reply.status in (409, 412):
            return CheckpointSourceError(
                f"{self.uri} got another object of the same name while ours was sent", remedy=_OWN_PLACE
            )
        return refused(self._source, reply.status, reply.phrase, reply.headers, reply.body, _REMEDY)


def _etag_of(content: Content) -> str:
    """What services that make ETags of MD5 call the file, sent as we send it."""
    if content.size <= PART:
        return f'"{content.md5(0, content.size).hex()}"'
    parts = parts_of(content.size)
    digests = b"".join(content.md5(part.start, part.stop) for part in parts)
    return f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"'
