"""Reads the small parts of a blob that describe the rest, each byte once, and counts what that cost."""

from __future__ import annotations

from preheat.blob import Blob
from preheat.errors import TruncatedError

HEAD = 1024  # enough to tell every format by its first bytes
SMALL = 64 * 1024  # a smaller file is read at once


class MetadataReader:
    """Ranges of one blob, kept for as long as the index is being built: what was read is not requested again.

    With `start` and `stop` a file inside of the blob is read as if it stood alone.
    """

    def __init__(self, blob: Blob, start: int = 0, stop: int | None = None) -> None:
        self._blob = blob
        self._start = start
        self._kept: list[tuple[int, bytes]] = []
        self.size = (blob.size if stop is None else stop) - start
        self.fetched = 0

    @property
    def head(self) -> bytes:
        """The first 1024 bytes, or the whole of a file below 64 KiB."""
        return self.read(0, HEAD if self.size > SMALL else self.size)

    def keep(self, start: int, content: bytes) -> None:
        """Take bytes that were read already."""
        self._kept.append((start, content))

    def forget(self) -> None:
        """Keep nothing of what was read."""
        self._kept.clear()

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), all of them; raises TruncatedError when the blob ends before `stop`."""
        if stop > self.size:
            raise TruncatedError(
                f"the file ends at byte {self.size}; bytes {start}...{stop} are missing", remedy="Copy the file again"
            )
        for begin, kept in self._kept:
            if begin <= start and stop <= begin + len(kept):
                return kept[start - begin : stop - begin]
        content = self.fetch(start, stop)
        self._kept.append((start, content))
        return content

    def fetch(self, start: int, stop: int) -> bytes:
        """The same without keeping them, for bytes that nobody asks for twice."""
        for begin, kept in self._kept:
            if start < begin < stop <= begin + len(kept):
                return self.fetch(start, begin) + kept[: stop - begin]
        self.fetched += stop - start
        return self._blob.read(self._start + start, self._start + stop)
