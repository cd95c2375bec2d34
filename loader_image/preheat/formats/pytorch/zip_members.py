"""Where the bytes of zip members lie, without a request for each.

The directory does not say how long a member's local header is. Its length follows forwards from torch's padding rule
and backwards from the next member; where the two agree on one offset it is certain. Where they agree on several, a few
local headers are read: if those and every certain member are as torch writes them, so are the rest. A CRC would tell.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from preheat.errors import CheckpointValidationError
from preheat.formats.metadata import MetadataReader
from preheat.formats.pytorch.zip_directory import STREAMED, Member
from preheat.index import Record

ALIGNMENT = 64  # of torch's storages, where the file does not say
NEARBY = 16 * 1024  # headers and padding between four small members on pages of their own

SAMPLE = 4  # local headers that are read of a writer's many

_LOCAL = struct.Struct("<4s5H3L2H")
_UNSET = 0xFFFFFFFF  # also how sizes beyond 4 GiB are written


def read_member(reader: MetadataReader, member: Member) -> bytes:
    """The content of a small member, checked against its local header and its CRC."""
    start = _read_local(reader, member)
    content = reader.read(start, start + member.size)
    if member.crc32 is not None and zlib.crc32(content) != member.crc32:
        raise CheckpointValidationError(
            f"the zip member {member.name!r} has CRC-32 {zlib.crc32(content):#010x}, not {member.crc32:#010x}",
            remedy="Copy the file again",
        )
    return content


def read_ahead(reader: MetadataReader, members: Sequence[Member]) -> None:
    """Read small members that are neighbours, as torch writes them, in one request."""
    if not members:
        return
    start, stop = min(member.header for member in members), max(member.stop for member in members)
    if stop - start <= sum(member.size for member in members) + NEARBY:
        reader.read(start, stop)


def locate(reader: MetadataReader, members: Sequence[Member], alignment: int) -> list[Record]:
    """The bytes of each member's content."""
    starts = {member.name: _computed(member, alignment) for member in members}
    doubtful = [member for member in members if starts[member.name] is None]
    for member in doubtful[:: len(doubtful) // SAMPLE or 1]:
        starts[member.name] = _read_local(reader, member)
    torch = {member.name: _as_torch(member, alignment) for member in members}
    follows = all(starts[name] in (None, torch[name]) for name in starts)
    for member in doubtful:
        if starts[member.name] is None:
            known = torch[member.name] if follows and member.crc32 is not None else None
            starts[member.name] = _read_local(reader, member) if known is None else known
    return [_record(member, starts[member.name] or 0) for member in members]


def _record(member: Member, start: int) -> Record:
    return Record(member.name, start, start + member.size, member.crc32)


def _as_torch(member: Member, alignment: int) -> int | None:
    """Where torch would have put the data; None where its descriptor would not end at the next member."""
    start = _padded(member, alignment)
    descriptor = 24 if member.size >= _UNSET else 16
    return start if start + member.size + descriptor == member.stop else None


def _computed(member: Member, alignment: int) -> int | None:
    forward = {member.after_name, member.after_name + member.extra, _padded(member, alignment)}
    descriptors = (16, 24) if member.flags & STREAMED else (0,)
    agreed = forward & {member.stop - member.size - length for length in descriptors}
    return agreed.pop() if len(agreed) == 1 else None


def _padded(member: Member, alignment: int) -> int:
    """Where torch puts the data: after a padding field that aligns it, and after 64-bit fields where it needs them."""
    start = member.after_name + 4
    if member.size >= _UNSET or member.header >= _UNSET:
        start += 4 + (16 if member.size >= _UNSET else 0) + (8 if member.header >= _UNSET else 0)
    return start + -start % alignment


def _read_local(reader: MetadataReader, member: Member) -> int:
    """Where the data begins according to the local header, which must say what the directory says."""
    local = reader.read(member.header, member.after_name)
    signature, _, flags, method, _, _, crc, packed, size, name_length, extra = _LOCAL.unpack(local[: _LOCAL.size])
    start: int = member.after_name + extra
    if (
        signature != b"PK\3\4"
        or (flags, method) != (member.flags, 0)
        or name_length != len(local) - _LOCAL.size
        or local[_LOCAL.size :] != member.name.encode()
        or crc not in (0, member.crc32)
        or not {packed, size} <= {0, _UNSET, member.size}
        or start + member.size > member.stop
    ):
        raise CheckpointValidationError(
            f"the zip member {member.name!r} is described differently by the directory and at byte {member.header}"
        )
    return start
