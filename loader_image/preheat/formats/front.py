"""The beginning of a blob, where it is not said how long the part is that describes the rest."""

from __future__ import annotations

from preheat.errors import CheckpointLoadError, TruncatedError
from preheat.formats.metadata import MetadataReader

CHUNK = 32 * 1024


class Front:
    """As many of a blob's first bytes as were asked for, read in chunks that grow; more than `limit` are refused."""

    def __init__(self, reader: MetadataReader, limit: int) -> None:
        self.data = reader.head
        self.size = reader.size
        self._reader = reader
        self._limit = limit

    def grow(self, stop: int) -> bytes:
        """The first `stop` bytes or more; raises TruncatedError when the blob ends before."""
        size, known = self.size, len(self.data)
        if stop > size:
            raise TruncatedError(
                f"the file ends at byte {size}, inside its pickles; bytes {size}...{stop} are missing",
                remedy="Copy the file again",
            )
        if stop > self._limit:
            raise CheckpointLoadError(f"the file's pickles reach beyond byte {self._limit}, as far as is allowed")
        if stop > known:
            chunk = min(max(stop, known + max(CHUNK, known // 8)), size, self._limit)
            self.data += self._reader.fetch(known, chunk)
        return self.data
