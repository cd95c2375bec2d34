"""Several blobs, one behind the other, as one: what a checkpoint in a folder is to everything that moves bytes.

Plans and transfers know one range of bytes. Only who opens the files and who reads their headers knows of borders.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from preheat.blob import Blob, check_range


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a folder; `start` is where its first byte is in the whole."""

    name: str
    blob: Blob
    start: int


class JoinedBlob:
    """The files of one checkpoint. The first is the one that told which others belong to it.

    `beside` are those at the end that hold no weights and that the first knows nothing of.
    """

    #: What to do about a digest that was declared of several files as one.
    verified_by = "Verify a checkpoint of several files by its signature"

    def __init__(self, uri: str, files: Sequence[tuple[str, Blob]], beside: Sequence[tuple[str, Blob]] = ()) -> None:
        self.uri = uri
        members, size = [], 0
        for name, blob in [*files, *beside]:
            members.append(Member(name, blob, size))
            size += blob.size
        self.members = tuple(members)
        self.beside = self.members[len(files) :]
        self.size = size
        self.version = _version(self.members)
        self.remote = any(member.blob.remote for member in members)
        self._starts = [member.start for member in members]

    @property
    def fetched(self) -> int:
        """Bytes read so far, of all files."""
        return sum(member.blob.fetched for member in self.members)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop)."""
        check_range(self, start, stop)
        return b"".join(blob.read(begin, end) for blob, begin, end in self._parts(start, stop))

    def stream(self, start: int, stop: int, buffer: memoryview) -> Iterator[memoryview]:
        """Bytes [start, stop) in slices of `buffer`; none crosses a border between two files."""
        check_range(self, start, stop)
        for blob, begin, end in self._parts(start, stop):
            yield from blob.stream(begin, end, buffer)

    def close(self) -> None:
        """Close every file."""
        for member in self.members:
            member.blob.close()

    def _parts(self, start: int, stop: int) -> Iterator[tuple[Blob, int, int]]:
        at = bisect_right(self._starts, start) - 1
        while start < stop:
            member = self.members[at]
            end = min(stop, member.start + member.blob.size)
            if end > start:
                yield member.blob, start - member.start, end - member.start
            start, at = end, at + 1


def files_of(blob: Blob) -> tuple[Member, ...]:
    """The files that a blob consists of; one that is not joined is one, called as the last part of its URI."""
    if isinstance(blob, JoinedBlob):
        return blob.members
    return (Member(unquote(blob.uri.rpartition("/")[2]), blob, 0),)


def _version(members: Sequence[Member]) -> str:
    first = members[0].blob.version
    if first.startswith("commit:") and {member.blob.version for member in members} == {first}:
        return first  # of all files of a repository, and of use to a person
    digest = hashlib.sha256()
    for member in members:
        digest.update(f"{len(member.name)}:{member.name} {member.blob.size} {member.blob.version}\n".encode())
    return f"folder:{digest.hexdigest()[:32]}"
