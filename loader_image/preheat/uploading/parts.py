"""How a file is cut into the parts of a multipart upload, and how that is spoken about in XML."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, unescape

from preheat.transfer.checksum import Crc64

#: Bytes of a file that travels in one request, and of a part of a larger one: of a restart they may go again.
PART = 16 << 20
#: An upload has at most so many.
MOST_PARTS = 10_000
_MIB = 1 << 20


@dataclass(frozen=True)
class Part:
    """Bytes [start, stop) of the file; numbers begin with one."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Received:
    """A part that the server has: what it calls it, and its checksum where it computes one."""

    number: int
    etag: str
    size: int
    crc64: str = ""


@dataclass(frozen=True)
class Begun:
    """An upload that was not completed."""

    id: str
    since: str  # as the server writes times: they sort as text
    algorithm: str = ""  # of its parts' checksums, where the server tells


def parts_of(size: int) -> list[Part]:
    """The parts of a file of so many bytes: always the same, so that another process goes on with them."""
    length = max(PART, -(-size // MOST_PARTS // _MIB) * _MIB)
    starts = range(0, size, length)
    return [Part(number, start, min(start + length, size)) for number, start in enumerate(starts, 1)]


def spelled(checksum: Crc64) -> str:
    """A checksum as S3 spells it."""
    return b64encode(bytes.fromhex(checksum.hexdigest())).decode()


def completion(received: Sequence[Received]) -> bytes:
    """The document that puts an object together."""
    listed = "".join(
        f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag)}</ETag>"
        + (f"<ChecksumCRC64NVME>{part.crc64}</ChecksumCRC64NVME>" if part.crc64 else "")
        + "</Part>"
        for part in received
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"{listed}</CompleteMultipartUpload>"
    ).encode()


def begun_in(document: bytes, key: str) -> list[Begun]:
    """The uploads of one key in a listing, the newest first."""
    uploads = [fields for fields in _elements(document, "Upload") if fields.get("Key") == key]
    found = [
        Begun(fields["UploadId"], fields.get("Initiated", ""), fields.get("ChecksumAlgorithm", ""))
        for fields in uploads
        if "UploadId" in fields
    ]
    return sorted(found, key=lambda upload: upload.since, reverse=True)


def received_in(document: bytes) -> list[Received]:
    """The parts in a listing."""
    return [
        Received(int(fields["PartNumber"]), fields["ETag"], int(fields["Size"]), fields.get("ChecksumCRC64NVME", ""))
        for fields in _elements(document, "Part")
    ]


def text_in(document: bytes, name: str) -> str:
    """The text of the first element of that name; empty when there is none."""
    found = re.search(rf"<{name}>([^<]*)</{name}>", document.decode(errors="replace"))
    return unescape(found[1], _QUOTES) if found else ""


_QUOTES = {"&quot;": '"', "&#34;": '"', "&apos;": "'", "&#39;": "'"}


def _elements(document: bytes, name: str) -> Iterator[Mapping[str, str]]:
    """The flat texts in each element of that name. No parser of XML: a server's answer defines no entities for us."""
    for found in re.finditer(rf"<{name}>(.*?)</{name}>", document.decode(errors="replace"), re.DOTALL):
        yield {tag: unescape(text, _QUOTES) for tag, text in re.findall(r"<(\w+)>([^<]*)</", found[1])}
