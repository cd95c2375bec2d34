"""The directory at the end of a zip file, read strictly: whatever two readers could understand differently is refused.

Only unencrypted members of one file are accepted. The directory is the authority: torch leaves sizes and CRC out
of the local headers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from preheat.errors import CheckpointLoadError, CheckpointValidationError, TruncatedError, UnsupportedFormatError
from preheat.formats.metadata import MetadataReader
from preheat.formats.pytorch.zip_entries import Directory, Member

SUFFIX = 46 * 1024  # a directory of 700 members; with all other small reads it stays below 64 KiB
MAX_DIRECTORY = 512 << 20
STREAMED = 1 << 3  # sizes and CRC follow the data, in a descriptor
UTF8 = 1 << 11

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_NEWER_SAVE = "Save the checkpoint again with torch.save"


@dataclass(frozen=True, slots=True)
class _Bounds:
    start: int
    stop: int
    count: int


def read_directory(reader: MetadataReader, suffix: int = SUFFIX) -> Directory:
    """Every member by name, in the order of the directory; its last `suffix` bytes are read at once."""
    bounds = _bounds(reader, suffix)
    if bounds.stop - bounds.start > MAX_DIRECTORY:
        raise CheckpointLoadError(
            f"the zip directory has {bounds.stop - bounds.start} bytes; {MAX_DIRECTORY} are allowed"
        )
    directory = Directory()
    read = reader.fetch if bounds.stop - bounds.start > suffix else reader.read  # what is read is kept
    for entry in _entries(read(bounds.start, bounds.stop), bounds):
        directory.add(entry)
    if not directory:
        raise CheckpointValidationError("the zip file's directory lists no members", remedy="Copy the file again")
    directory.bound(bounds.start)
    return directory


def check_stored(members: Iterable[Member]) -> None:
    """Raise UnsupportedFormatError when a member is compressed: its bytes are no tensors, and may be a bomb."""
    for member in members:
        if member.method:
            raise UnsupportedFormatError(
                f"the zip member {member.name!r} is compressed (method {member.method})", remedy=_NEWER_SAVE
            )


def _bounds(reader: MetadataReader, suffix: int) -> _Bounds:
    """Where the directory lies, from the records that end the file."""
    size = reader.size
    tail = reader.read(max(0, size - suffix), size)
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\5\6":
        raise _no_end(tail, size)
    _, disk, first_disk, here, count, length, start, comment = _END.unpack(tail[-_END.size :])
    if disk or first_disk or here != count or comment:
        raise UnsupportedFormatError("the zip file is one of several disks or ends in a comment", remedy=_NEWER_SAVE)
    narrow = _Bounds(start, start + length, count)
    at = size - _END.size - _LOCATOR.size
    if at >= 0 and reader.read(at, at + 4) == b"PK\6\7":
        bounds, end = _bounds64(reader, at, narrow), at - _END64.size
    else:
        bounds, end = narrow, size - _END.size
    if bounds.stop != end or bounds.start > bounds.stop:
        raise CheckpointValidationError(
            f"the zip directory claims bytes {bounds.start}...{bounds.stop} and should end at byte {end}"
        )
    return bounds


def _bounds64(reader: MetadataReader, locator: int, narrow: _Bounds) -> _Bounds:
    _, disk, at, disks = _LOCATOR.unpack(reader.read(locator, locator + _LOCATOR.size))
    if at != locator - _END64.size or disk or disks > 1:
        raise CheckpointValidationError(
            f"the ZIP64 locator at byte {locator} points to byte {at}, not to what is before it"
        )
    fields = _END64.unpack(reader.read(at, locator))
    signature, length, _, _, disk, first_disk, here, count, size, start = fields
    if signature != b"PK\6\6" or length != _END64.size - 12 or disk or first_disk or here != count:
        raise CheckpointValidationError(f"the ZIP64 end record at byte {at} is damaged")
    wide = _Bounds(start, start + size, count)
    for old, new, limit in (
        (narrow.start, start, 0xFFFFFFFF),
        (narrow.stop - narrow.start, size, 0xFFFFFFFF),
        (narrow.count, count, 0xFFFF),
    ):
        if old not in (new, limit):
            raise CheckpointValidationError(f"the zip file says {old} in one end record and {new} in the other")
    return wide


def _no_end(tail: bytes, size: int) -> CheckpointLoadError:
    """Why the last bytes are not the end record of a zip file."""
    found = tail.rfind(b"PK\5\6")
    if 0 <= found <= len(tail) - _END.size:
        extra = len(tail) - found - _END.size
        return UnsupportedFormatError(
            f"{extra} bytes follow the end of the zip file, from byte {size - extra}", remedy=_NEWER_SAVE
        )
    missing = f"bytes {size}... are missing, the zip directory at its end among them"
    if found >= 0:
        missing = f"bytes {size}...{size - len(tail) + found + _END.size} of its last record are missing"
    return TruncatedError(f"the file ends at byte {size}; {missing}", remedy="Copy the file again")


def _entries(directory: bytes, bounds: _Bounds) -> Iterator[Member]:
    at = 0
    for position in range(bounds.count):
        if at + _ENTRY.size > len(directory):
            raise CheckpointValidationError(f"the zip directory ends inside entry {position} of {bounds.count}")
        fields = _ENTRY.unpack_from(directory, at)
        lengths = fields[10:13]
        stop = at + _ENTRY.size + sum(lengths)
        if fields[0] != b"PK\1\2" or stop > len(directory):
            raise CheckpointValidationError(f"the zip directory is damaged at byte {bounds.start + at}")
        name_stop = at + _ENTRY.size + lengths[0]
        name = _name(directory[at + _ENTRY.size : name_stop], fields[3])
        yield _member(name, fields, directory[name_stop : name_stop + lengths[1]])
        at = stop
    if at != len(directory):
        raise CheckpointValidationError(f"{len(directory) - at} bytes of the zip directory belong to no entry")


def _name(raw: bytes, flags: int) -> str:
    try:
        name = raw.decode("utf-8" if flags & UTF8 else "ascii")
    except UnicodeDecodeError as error:
        raise UnsupportedFormatError(f"the zip member name {raw!r} has no certain spelling") from error
    if not name or name.startswith("/") or "\0" in name or "\\" in name or ".." in name.split("/"):
        raise CheckpointValidationError(f"the zip member name {name!r} is not a plain relative path")
    return name


def _member(name: str, fields: tuple[int, ...], extra: bytes) -> Member:
    _, _, _, flags, method, _, _, crc, packed, size, *_ = fields
    disk, header = fields[13], fields[16]
    if flags & ~(STREAMED | UTF8 | 0b110):  # bits 1 and 2 mean nothing for stored members
        raise UnsupportedFormatError(f"the zip member {name!r} is encrypted or patched (flags {flags:#06x})")
    wide = _wide(name, extra)
    size, packed, header = (next(wide, n) if n == 0xFFFFFFFF else n for n in (size, packed, header))
    if disk or next(wide, None) is not None:
        raise UnsupportedFormatError(f"the zip member {name!r} has an extra field that readers understand differently")
    if packed != size and not method:
        raise CheckpointValidationError(f"the zip member {name!r} is stored, yet has sizes {packed} and {size}")
    return Member(name, header, 0, packed, method, crc or None, flags, len(extra))


def _wide(name: str, extra: bytes) -> Iterator[int]:
    """The 64-bit values of the extra field; two of them, or another name for the member, are refused."""
    at, values = 0, b""
    while at < len(extra):
        kind, length = struct.unpack_from("<2H", extra.ljust(at + 4, b"\0"), at)
        if at + 4 + length > len(extra) or kind == 0x7075 or (kind == 1 and (values or length % 8)):
            raise CheckpointValidationError(f"the zip member {name!r} has a damaged or ambiguous extra field")
        if kind == 1:
            values = extra[at + 4 : at + 4 + length]
        at += 4 + length
    return (number for (number,) in struct.iter_unpack("<Q", values))
