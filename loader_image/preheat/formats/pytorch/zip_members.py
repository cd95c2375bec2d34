"""Where the bytes of zip members lie, without a request for each.

The directory does not say how long a member's local header is. Its length follows forwards from torch's padding rule
and backwards from the next member; where the two agree on one offset it is certain. Where they agree on several, a few
local headers are read: if those and every certain member are as torch writes them, so are the rest. A CRC would tell.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence

from preheat.errors import CheckpointValidationError
from preheat.formats.metadata import MetadataReader
from preheat.formats.pytorch.zip_directory import STREAMED
from preheat.formats.pytorch.zip_entries import Directory, Member
from preheat.index import Record

ALIGNMENT = 64  # of torch's storages, where the file does not say
NEARBY = 16 * 1024  # headers and padding between four small members on pages of their own

LARGE = 1 << 20  # bytes of a member that is worth a request of its own
SAMPLE = 4  # local headers that are read of a writer's many

_LOCAL = struct.Struct("<4s5H3L2H")
_UNKNOWN = -1
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
    members = [member for member in members if member.size <= LARGE]  # others would be in memory twice
    if not members:
        return
    start, stop = min(member.header for member in members), max(member.stop for member in members)
    if stop - start <= sum(member.size for member in members) + NEARBY:
        reader.read(start, stop)


class Storages(Mapping[str, Record]):
    """Where the content of each storage lies, by its key; the directory is not needed any more."""

    def __init__(self, reader: MetadataReader, directory: Directory, prefix: str, alignment: int) -> None:
        self._prefix = prefix
        self._numbering = directory.numbering
        self._places = array("q")  # for each member of the directory: start, stop and CRC-32, -1 where there is none
        starts = iter(locate(reader, _Members(directory, prefix), alignment))
        for name, member in directory.items():
            start = next(starts) if name.startswith(prefix) else 0
            self._places.extend((start, start + member.size, -1 if member.crc32 is None else member.crc32))

    def __getitem__(self, key: str) -> Record:
        row = self._numbering.row(self._prefix + key)
        if row < 0:
            raise KeyError(key)
        return StoredRecord(self, row)

    def __iter__(self) -> Iterator[str]:
        names = map(self._numbering.name, range(len(self._numbering)))
        return (name.removeprefix(self._prefix) for name in names if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def name_of(self, row: int) -> str:
        """What the member in a row of the directory is called."""
        return self._numbering.name(row)

    def place(self, row: int, field: int) -> int:
        """Its start, its stop or its CRC-32."""
        return self._places[3 * row + field]


class StoredRecord(Record):
    """A record that is looked up when it is asked for anything: while a pickle is read there is one for each tensor."""

    __slots__ = ("_row", "_storages")
    _storages: Storages
    _row: int

    def __init__(self, storages: Storages, row: int) -> None:
        object.__setattr__(self, "_storages", storages)
        object.__setattr__(self, "_row", row)

    @property
    def name(self) -> str:
        return self._storages.name_of(self._row)

    @property
    def start(self) -> int:
        return self._storages.place(self._row, 0)

    @property
    def stop(self) -> int:
        return self._storages.place(self._row, 1)

    @property
    def crc32(self) -> int | None:
        crc32 = self._storages.place(self._row, 2)
        return None if crc32 < 0 else crc32


class _Members:
    """Those below a prefix, made anew whenever they are asked for."""

    def __init__(self, directory: Directory, prefix: str) -> None:
        self._directory = directory
        self._prefix = prefix

    def __iter__(self) -> Iterator[Member]:
        return (self._directory[name] for name in self._directory if name.startswith(self._prefix))


def locate(reader: MetadataReader, members: Iterable[Member], alignment: int) -> array[int]:
    """Where each member's content begins; `members` are gone through several times."""
    computed = (_computed(member, alignment) for member in members)
    starts = array("q", (_UNKNOWN if start is None else start for start in computed))
    doubtful = [at for at, start in enumerate(starts) if start == _UNKNOWN]
    if not doubtful:
        return starts
    sample = frozenset(doubtful[:: len(doubtful) // SAMPLE or 1])
    for at, member in enumerate(members):
        if at in sample:
            starts[at] = _read_local(reader, member)
    torch = (_as_torch(member, alignment) for member in members)
    follows = all(start in (_UNKNOWN, known) for start, known in zip(starts, torch, strict=True))
    for at, member in enumerate(members):
        if starts[at] == _UNKNOWN:
            known = _as_torch(member, alignment) if follows and member.crc32 is not None else None
            starts[at] = _read_local(reader, member) if known is None else known
    return starts


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
