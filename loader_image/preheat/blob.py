"""What a source opens: bytes that are read by range and pinned to one version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from preheat.errors import TruncatedError


@dataclass(frozen=True)
class Patience:
    """How long a source is tried: attempts after the first, and seconds without progress."""

    max_retries: int = 3
    timeout_seconds: float = 300


class Blob(Protocol):
    """One immutable version of an object. Safe to use from several threads at once.

    Every read after the first carries the version: an object that is replaced raises SourceChangedError, never mixes.
    Short reads raise TruncatedError naming the byte range; transport faults are retried within the source's Patience.
    """

    uri: str  # where, without credentials
    size: int  # bytes
    version: str  # what pins it: `etag:...`, `versionId:...`, `file:<inode>-<mtime_ns>-<size>`, `folder:<digest>`
    remote: bool  # every read is a request to somewhere

    @property
    def fetched(self) -> int:
        """Bytes read so far, retries included."""
        ...

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), all of them: for directories, headers and pickles."""
        ...

    def stream(self, start: int, stop: int, buffer: memoryview) -> Iterator[memoryview]:
        """Bytes [start, stop) in order, in slices of `buffer` that are valid until the next one is asked for."""
        ...

    def close(self) -> None:
        """Give back connections and descriptors."""
        ...


class Folder(Protocol):
    """A place whose files are opened by name: a directory, the keys below a prefix, what is beside a URL."""

    uri: str  # where, without credentials; ends in a slash

    def names(self) -> frozenset[str] | None:
        """Names of the files right in it; None where asking would need more rights than reading them."""
        ...

    def open(self, name: str) -> Blob:
        """Pin one file by its path inside; raises CheckpointNotFoundError when there is none."""
        ...


def check_range(blob: Blob, start: int, stop: int) -> None:
    """Raise TruncatedError when [start, stop) is not inside the blob: whoever asks was told so by the checkpoint."""
    if not 0 <= start <= stop <= blob.size:
        raise TruncatedError(
            f"{blob.uri} should have bytes {start}...{stop}; it ends at {blob.size}",
            remedy="Copy or save the checkpoint again",
        )
