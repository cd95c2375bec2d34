"""The files of a place at any depth, from one recursive listing; what of them is opened is asked for by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from preheat.blob import Blob, Folder
from preheat.errors import CheckpointLoadError, CheckpointSourceError

#: More files than any run has; a place with more of them was not meant.
MAX_ENTRIES = 1_000_000
MAX_DOCUMENT = 64 << 20  # bytes of a file that is read whole


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a listing; its path is relative to the place that was listed."""

    path: str
    size: int  # bytes
    modified: float  # seconds since the epoch; 0 where the storage does not tell

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """All of the path before that, without a slash at its end."""
        return self.path.rpartition("/")[0]


class Tree(Folder, Protocol):
    """A folder whose files at any depth can be listed."""

    def entries(self) -> Iterable[Entry]:
        """All of them, in any order; none when the folder is not there."""
        ...


class Listing:
    """What a place held when it was listed."""

    def __init__(self, tree: Tree) -> None:
        self.uri = tree.uri
        self._tree = tree
        self.entries = tuple(tree.entries())

    def folder(self, path: str) -> Folder:
        """A folder of it, whose names are known already; an empty path is the place itself."""
        return _ListedFolder(self._tree, f"{path}/" if path else "", self.entries)

    def open(self, path: str) -> Blob:
        """Pin one file."""
        return self._tree.open(path)

    def read(self, path: str) -> bytes:
        """All of a small file."""
        blob = self.open(path)
        try:
            if blob.size > MAX_DOCUMENT:
                raise CheckpointLoadError(f"{blob.uri} has {blob.size} bytes; {MAX_DOCUMENT} are allowed")
            return blob.read(0, blob.size)
        finally:
            blob.close()


class _ListedFolder:
    """A folder of a listing."""

    def __init__(self, tree: Tree, prefix: str, entries: Iterable[Entry]) -> None:
        self.uri = tree.uri + prefix
        self._tree = tree
        self._prefix = prefix
        below = (entry.path.removeprefix(prefix) for entry in entries if entry.path.startswith(prefix))
        self._names = frozenset(name.partition("/")[0] for name in below)

    def names(self) -> frozenset[str]:
        """Everything right in it."""
        return self._names

    def open(self, name: str) -> Blob:
        """Pin a file."""
        return self._tree.open(self._prefix + name)


def check_count(uri: str, count: int) -> None:
    """Raise CheckpointSourceError when a listing has grown beyond what anyone means."""
    if count > MAX_ENTRIES:
        raise CheckpointSourceError(
            f"{uri} has more than {MAX_ENTRIES:,} files, too many to look for a run's checkpoints",
            remedy="Name the run's own folder",
        )
