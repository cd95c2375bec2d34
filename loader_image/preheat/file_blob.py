"""A local file, pinned by inode, modification time and size."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from preheat.blob import check_range
from preheat.errors import (
    AccessDeniedError,
    CheckpointNotFoundError,
    CheckpointSourceError,
    SourceChangedError,
    TruncatedError,
    UnsupportedFormatError,
)
from preheat.runs.listing import Entry, check_count

#: What a file system has at its root for itself, and nobody else may read.
_LOST = "lost+found"
_LOOKED_AT = 1000  # names of a folder that may be what was meant
_VIEWS = 1024  # buffers that one call of the kernel fills at most


class FileBlob:
    """The bytes of one file; a file that is rewritten while it is read raises SourceChangedError."""

    remote = False

    def __init__(self, path: Path) -> None:
        self.uri = str(path)
        self.fetched = 0
        self._lock = threading.Lock()
        self._fd = _open(path)
        try:
            status = _regular(self._fd, path)
        except BaseException:
            self.close()
            raise
        self.size = status.st_size
        self.version = _version(status)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop)."""
        check_range(self, start, stop)
        buffer = bytearray(stop - start)
        self._fill([memoryview(buffer)], start)
        return bytes(buffer)

    def stream(self, start: int, stop: int, buffer: memoryview) -> Iterator[memoryview]:
        """Bytes [start, stop) in slices of `buffer`, each full but the last."""
        check_range(self, start, stop)
        for position in range(start, stop, len(buffer)):
            view = buffer[: min(len(buffer), stop - position)]
            self._fill([view], position)
            yield view

    def read_into(self, start: int, views: Sequence[memoryview]) -> None:
        """Fill `views` one after the other with the bytes from `start`; one call of the kernel fills many of them."""
        check_range(self, start, start + sum(map(len, views)))
        self._fill([view for view in views if len(view)], start)

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _fill(self, views: list[memoryview], position: int) -> None:
        start, stop = position, position + sum(map(len, views))
        while position < stop:
            try:
                count = os.preadv(self._fd, views[:_VIEWS], position)
            except OSError as error:
                raise CheckpointSourceError(
                    f"reading {self.uri} failed at byte {position}: {error.strerror}",
                    remedy="Check the disk or mount it is on",
                ) from error
            if not count:
                self._check_pin()
                raise _short(self, position, stop)
            position += count
            views = _after(views, count)
        self._passed(stop - start)

    def _passed(self, count: int) -> None:
        self._check_pin()
        with self._lock:
            self.fetched += count

    def _check_pin(self) -> None:
        if _version(os.fstat(self._fd)) != self.version:
            raise SourceChangedError(
                f"{self.uri} was changed while it was read",
                remedy="Run again when its writer is done, or write to a new name and rename",
            )


class LocalFolder:
    """A directory."""

    def __init__(self, path: Path) -> None:
        self.uri = f"{path}/"
        self._path = path

    def names(self) -> frozenset[str]:
        """Everything in it."""
        try:
            return frozenset(os.listdir(self._path))
        except OSError as error:
            raise _unreadable(self._path, error) from None

    def open(self, name: str) -> FileBlob:
        """Pin a file."""
        return FileBlob(self._path / name)

    def entries(self) -> Iterator[Entry]:
        """Every file at any depth but in hidden folders. Links to files are followed, and to folders beside them."""
        pending = [""]
        count = 0
        while pending:
            below = pending.pop()
            for found in self._scan(below):
                path = below + found.name
                if _leads_on(found):
                    pending.append(f"{path}/")
                elif status := _status_of(found):
                    count += 1
                    check_count(self.uri, count)
                    yield Entry(path, status.st_size, status.st_mtime)

    def _scan(self, below: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._path / below) as found:
                return list(found)
        except (FileNotFoundError, NotADirectoryError):  # it was never there, or went while others were looked at
            return []
        except OSError as error:
            raise _unreadable(self._path / below, error) from None


def _leads_on(found: os.DirEntry[str]) -> bool:
    """Whether it is a folder whose files count; a link that leads elsewhere, such as to another run, is none."""
    if found.name.startswith(".") or found.name == _LOST:
        return False
    if found.is_dir(follow_symlinks=False):
        return True
    if not found.is_symlink() or not found.is_dir():
        return False
    return os.path.dirname(os.path.realpath(found.path)) == os.path.realpath(os.path.dirname(found.path))


def _status_of(found: os.DirEntry[str]) -> os.stat_result | None:
    """What is known of a file; None for what is none, or went away."""
    try:
        return found.stat() if found.is_file() else None
    except OSError:
        return None


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe without writer must not block
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> CheckpointSourceError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return CheckpointNotFoundError(
            f"there is no file {path}{_instead(path)}", remedy="Check the path; it is the one that the loader sees"
        )
    if isinstance(error, PermissionError):
        return AccessDeniedError(
            f"user {os.getuid()} may not read {path}", remedy="Change its mode, or runAsUser or fsGroup of the pod"
        )
    return CheckpointSourceError(f"opening {path} failed: {error.strerror}")


def _instead(path: Path) -> str:
    """What there is in its place, said after a path that leads nowhere."""
    from difflib import get_close_matches  # which nobody pays for whose file is there

    try:
        names = [name for name in islice(os.listdir(path.parent), _LOOKED_AT) if name.isprintable()]
    except OSError:
        return "" if path.parent.exists() else ", nor its folder"
    alike = get_close_matches(path.name, names)
    return f"; there is {', '.join(alike)}" if alike else ""


def _regular(fd: int, path: Path) -> os.stat_result:
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        raise UnsupportedFormatError(f"{path} is a folder", remedy="Name a checkpoint file in it")
    if not stat.S_ISREG(status.st_mode):
        raise UnsupportedFormatError(f"{path} is not a regular file")
    return status


def _version(status: os.stat_result) -> str:
    return f"file:{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"


def _short(blob: FileBlob, position: int, stop: int) -> TruncatedError:
    return TruncatedError(f"{blob.uri} has no bytes {position}...{stop}; it ends at {position}")


def _after(views: list[memoryview], count: int) -> list[memoryview]:
    """What is left of `views` when their first `count` bytes are filled."""
    for position, view in enumerate(views):
        if count < len(view):
            return [view[count:], *views[position + 1 :]]
        count -= len(view)
    return []
