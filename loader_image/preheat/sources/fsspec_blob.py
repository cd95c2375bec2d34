"""Files of an fsspec filesystem as blobs.

fsspec has no conditional read. The version is what the storage says about the file; it is asked for again when a range
has arrived and before its last bytes are handed on, so a file that was replaced by then is refused. One that is
replaced and put back between two questions, or within one step of its storage's clock, goes unnoticed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from preheat.blob import Patience, check_range
from preheat.errors import (
    CheckpointConfigError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointSourceError,
    CheckpointTimeoutError,
    SourceChangedError,
    TruncatedError,
    UnsupportedFormatError,
)
from preheat.runs.listing import Entry, check_count
from preheat.sources.attempts import Attempts, Interrupted
from preheat.sources.fsspec_files import Files, error_of, modified_of, open_files, version_of

#: Bytes of one request. Each costs a round trip; but each thread holds some of them, beside what the package takes, and
#: the loader is limited to 128 MiB where nobody says otherwise.
BLOCK = 1 << 20

Answer = TypeVar("Answer")


@dataclass
class FsspecFolder:
    """The files whose paths in a filesystem begin with `place`, and their URLs with `uri`."""

    files: Files
    place: str
    uri: str
    patience: Patience
    query: str = ""  # sent for every file: it may be a signature for all of them
    outer: str = ""  # the rest of a chained URL, such as that of the archive

    def names(self) -> None:
        """Nothing: who may read files need not be allowed to list them."""

    def open(self, name: str) -> FsspecBlob:
        """Ask for size and version of a file."""
        return FsspecBlob(self.files, self.place + name + self.query, self.uri + name + self.outer, self.patience)

    def entries(self) -> list[Entry]:
        """Every file at any depth, from one listing; none when there is no such folder."""
        try:
            found = patiently(self.uri, self.patience, threading.Event(), self._list)
        except CheckpointNotFoundError:
            return []
        check_count(self.uri, len(found))
        return found

    def _list(self) -> list[Entry]:
        place = self.place.lstrip("/")  # which filesystems put there, or do not
        return [
            Entry(path.lstrip("/").removeprefix(place), size, modified_of(info))
            for path, info in self.files.files_below(self.place)
            if isinstance(size := info.get("size"), int)
        ]


class FsspecBlob:
    """One file. Safe in several threads as far as the filesystem is: each read is a call of its own."""

    remote = True

    def __init__(self, files: Files, path: str, uri: str, patience: Patience) -> None:
        self.uri = uri
        self.fetched = 0
        self._files: Files | None = files
        self._path = path
        self._patience = patience
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.size, self.version = self._patiently(self._ask)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop)."""
        check_range(self, start, stop)
        buffer = memoryview(bytearray(min(stop - start, BLOCK)))
        return b"".join([bytes(view) for view in self.stream(start, stop, buffer)])

    def stream(self, start: int, stop: int, buffer: memoryview) -> Iterator[memoryview]:
        """Bytes [start, stop) in slices of `buffer`; the last one is handed on when the version was asked for again."""
        check_range(self, start, stop)
        for position in range(start, stop, BLOCK):
            end = min(position + BLOCK, stop)
            content = memoryview(self._patiently(self._block, position, end))
            if end == stop:
                self._check_pin()
            for offset in range(0, len(content), len(buffer)):
                part = content[offset : offset + len(buffer)]
                buffer[: len(part)] = part
                yield buffer[: len(part)]

    def close(self) -> None:
        """Let go of the filesystem; a read in another thread ends in an error instead of trying again."""
        self._closed.set()
        self._files = None

    def _ask(self) -> tuple[int, str]:
        """Size and version, now."""
        info = self._opened().info(self._path)
        if info.get("type") == "directory":
            raise UnsupportedFormatError(f"{self.uri} is a folder", remedy="End its URL in a slash")
        size, version = info.get("size"), version_of(info)
        if not isinstance(size, int):
            raise CheckpointSourceError(f"the storage of {self.uri} does not say how large the file is")
        if version is None:
            raise CheckpointSourceError(
                f"the storage of {self.uri} tells neither checksum nor time, so a replaced file would go unnoticed",
                remedy="Copy the file to a storage that does",
            )
        return size, version

    def _block(self, start: int, stop: int) -> bytes:
        content = self._opened().content(self._path, start, stop)
        with self._lock:
            self.fetched += len(content)
        if len(content) > stop - start:
            raise CheckpointSourceError(
                f"the storage of {self.uri} does not serve byte ranges", remedy="Copy the file to one that does"
            )
        if len(content) < stop - start:
            self._check_pin()
            raise TruncatedError(f"{self.uri} has no bytes {start + len(content)}...{stop}; it should have {self.size}")
        return content

    def _check_pin(self) -> None:
        if self._patiently(self._ask) != (self.size, self.version):
            raise SourceChangedError(
                f"{self.uri} was replaced while it was read", remedy="Run again; nothing of the mixture was published"
            )

    def _opened(self) -> Files:
        if self._files is None:
            raise CheckpointSourceError(f"{self.uri} was closed while it was read")
        return self._files

    def _patiently(self, ask: Callable[..., Answer], *arguments: Any) -> Answer:
        return patiently(self.uri, self._patience, self._closed, ask, *arguments)


def patiently(
    uri: str, patience: Patience, ended: threading.Event, ask: Callable[..., Answer], *arguments: Any
) -> Answer:
    """What `ask` answers; what fails for no known reason is tried again within the source's patience."""
    attempts = Attempts(uri, patience, ended)
    while True:
        try:
            return ask(*arguments)
        except CheckpointError:
            raise
        except Exception as error:  # of whichever package the filesystem is
            found = error_of(uri, error)
            if type(found) not in (CheckpointSourceError, CheckpointTimeoutError):
                raise found from error
            attempts.again(Interrupted(found))


def open_folder(url: str, options: Mapping[str, Any], patience: Patience) -> tuple[FsspecFolder, str]:
    """The folder that a URL is or is in, and the file's name; raises CheckpointConfigError when fsspec has no way."""
    files, path = open_files(url, options, patience.timeout_seconds)
    inner, mark, outer = url.partition("::")
    query = ""
    if inner.startswith(("http://", "https://")):  # elsewhere a question mark is part of the name
        (inner, sign, query), path = inner.partition("?"), path.partition("?")[0]
        query = sign + query
    name = inner[inner.rfind("/") + 1 :]
    if not path.endswith(name):
        raise CheckpointConfigError(f"fsspec makes {path!r} of {inner}, which has another name", remedy="Check the URL")
    place = path.removesuffix(name) if name else path.rstrip("/") + "/" * bool(path)
    return FsspecFolder(files, place, inner.removesuffix(name), patience, query, mark + outer), name
