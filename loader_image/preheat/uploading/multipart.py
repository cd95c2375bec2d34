"""One file on its way to a bucket in parts, which stay at the server when this process dies.

Which parts are there is asked of the server; nothing is written down here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from preheat.errors import CheckpointValidationError
from preheat.transfer.checksum import Crc64
from preheat.transfer.workers import work_off
from preheat.uploading.content import Content, Passed
from preheat.uploading.parts import Begun, Part, Received, begun_in, completion, parts_of, received_in, spelled, text_in
from preheat.uploading.sending import Reply, Stretch, Text

if TYPE_CHECKING:
    from preheat.uploading.s3_target import S3Target

log = logging.getLogger(__name__)


class Multipart:
    """One file on its way in parts."""

    def __init__(
        self,
        target: S3Target,
        content: Content,
        name: str,
        threads: Callable[[], int],
        passed: Passed,
        advance: Passed,
    ) -> None:
        self._target = target
        self._content = content
        self._name = name
        self._threads = threads
        self._passed = passed
        self._advance = advance
        self._lock = threading.Lock()
        self._others: list[Begun] = []
        self._received: dict[int, Received] = {}
        self._checksums: dict[int, Crc64] = {}

    def run(self, new: bool) -> str:
        """Send what is missing and put it together; answers with the checksum of the whole."""
        parts = parts_of(self._content.size)
        self._id, there = self._begin()
        self._there = {each.number: each for each in there}
        if there:
            log.info("%s: going on, %d of %d parts are there already", self._name, len(there), len(parts))
        work_off(parts, self._threads, self._send, self._target.interrupt)
        self._content.check()
        checksum = self._whole()
        self._complete(checksum, new)
        for other in self._others:  # what is stored of them costs, and nobody will complete them
            self._target.ask("DELETE", "abort_multipart_upload", self._name, {"UploadId": other.id})
        return checksum

    def _begin(self) -> tuple[str, list[Received]]:
        """An upload's id, and what it has: the newest that was not completed, or a new one."""
        begun = self._begun()
        parts = self._listed(begun[0].id) if begun else None
        self._others = begun[1:] if parts is not None else begun
        return (begun[0].id, parts) if parts is not None else (self._create(), [])

    def _begun(self) -> list[Begun]:
        key = self._target.key(self._name)
        reply = self._target.ask("GET", "list_multipart_uploads", None, {"Prefix": key})
        if not reply.good:
            log.info("%s: what was sent before cannot be listed (%d %s)", self._name, reply.status, reply.phrase)
            return []
        # Parts of an upload have one kind of checksum; another program may have begun with another.
        return [begun for begun in begun_in(reply.body, key) if begun.algorithm in ("", "CRC64NVME")]

    def _listed(self, upload: str) -> list[Received] | None:
        """The parts of an upload; None when they cannot be known."""
        found: list[Received] = []
        marker = 0
        while True:
            parameters = {"UploadId": upload, "PartNumberMarker": marker}
            reply = self._target.ask("GET", "list_parts", self._name, parameters)
            if not reply.good:
                return None
            page = received_in(reply.body)
            found += page
            if text_in(reply.body, "IsTruncated") != "true" or not page:
                return found
            marker = page[-1].number

    def _create(self) -> str:
        parameters: dict[str, Any] = {}
        headers: dict[str, str] = {}
        if self._target.checksums:
            parameters = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}
            headers = {"x-amz-checksum-algorithm": "CRC64NVME", "x-amz-checksum-type": "FULL_OBJECT"}
        reply = self._target.ask("POST", "create_multipart_upload", self._name, parameters, headers)
        if self._target.knows_none(reply):
            return self._create()
        return text_in(self._target.good(reply).body, "UploadId")

    def _send(self, parts: Iterator[Part]) -> None:
        """One thread's work."""
        for part in parts:
            checksum = self._content.crc64(part.start, part.stop)
            received = self._known(part, spelled(checksum)) or self._send_part(part, spelled(checksum))
            with self._lock:
                self._received[part.number] = received
                self._checksums[part.number] = checksum

    def _known(self, part: Part, crc64: str) -> Received | None:
        """The part as the server has it, if it has these bytes."""
        found = self._there.get(part.number)
        if found is None or found.size != part.stop - part.start:
            return None
        if found.crc64 != crc64 and (found.crc64 or not _is_md5(found.etag, self._content, part)):
            return None
        self._advance(found.size)
        return found

    def _send_part(self, part: Part, crc64: str) -> Received:
        parameters, headers = self._target.checksum(crc64)
        parameters |= {"UploadId": self._id, "PartNumber": part.number}
        body = Stretch(self._content, part.start, part.stop)
        reply = self._target.ask("PUT", "upload_part", self._name, parameters, headers, body, self._passed)
        if self._target.knows_none(reply):
            self._advance(-body.size)
            return self._send_part(part, crc64)
        reply = self._target.good(reply)
        told = check_arrived(self._target.uri + self._name, reply, self._content, part, crc64)
        return Received(part.number, reply.headers.get("ETag") or "", body.size, told)

    def _whole(self) -> str:
        whole = Crc64()
        for part in parts_of(self._content.size):
            whole.append(self._checksums[part.number], part.stop - part.start)
        return spelled(whole)

    def _complete(self, checksum: str, new: bool) -> None:
        received = [self._received[number] for number in sorted(self._received)]
        parameters: dict[str, Any] = {}
        headers: dict[str, str] = {}
        if self._target.checksums and all(part.crc64 for part in received):
            parameters, headers = self._target.checksum(checksum)
            parameters["ChecksumType"] = headers["x-amz-checksum-type"] = "FULL_OBJECT"
        if new:
            parameters, headers = {**parameters, "IfNoneMatch": "*"}, {**headers, "If-None-Match": "*"}
        parameters = {**parameters, "UploadId": self._id}
        body = Text(completion(received))
        reply = self._target.ask("POST", "complete_multipart_upload", self._name, parameters, headers, body)
        if reply.status == 501 and new:
            return self._complete(checksum, new=False)
        if reply.status in (404, 412) and self._target.is_there(self._content, self._name):
            return None  # our own answer was lost, or another has sent the same
        self._target.good(reply)
        return None


def check_arrived(uri: str, reply: Reply, content: Content, part: Part, crc64: str) -> str:
    """The CRC-64 that the service says it has of what it received, empty when it says none; raises when it is another.

    Without one its ETag is compared, unless it encrypts with keys of its own, and ETags are no digest.
    """
    told = reply.headers.get("x-amz-checksum-crc64nvme") or ""
    etag = reply.headers.get("ETag") or ""
    opaque = "kms" in (reply.headers.get("x-amz-server-side-encryption") or "") or len(etag.strip('"')) != 32
    if told == crc64 or (not told and (opaque or _is_md5(etag, content, part))):
        return told
    content.check()  # a file that was written to meanwhile explains it
    raise CheckpointValidationError(f"{uri}: bytes {part.start}...{part.stop} arrived damaged", remedy="Try again")


def _is_md5(etag: str, content: Content, part: Part) -> bool:
    return etag.strip('"') == content.md5(part.start, part.stop).hex()
