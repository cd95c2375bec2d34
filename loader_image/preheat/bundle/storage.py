"""The volume's own refusals, in words: full, read-only, failing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from preheat.amounts import size_text
from preheat.errors import NoSpaceError, StorageError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
#: Manifest, shim and the file system's own needs.
RESERVE = 2 * 1024 * 1024


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn the OSErrors of writing below `folder` into StorageErrors."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpaceError(f"{folder} is full: {error.strerror}", remedy="Give the volume more space") from error
        if error.errno in _FORBIDDEN:
            raise StorageError(
                f"user {os.getuid()} may not write to {folder}: {error.strerror}",
                remedy="Mount the volume read-write and set fsGroup of the pod",
            ) from error
        reason = error.strerror or str(error)[:200]  # shutil collects several errors in one without a number
        raise StorageError(f"writing to {folder} failed: {reason}", remedy="Check the volume") from error


def require_space(folder: Path, needed: int) -> None:
    """Raise NoSpaceError before a byte is written when the file system has not `needed` bytes to give."""
    status = os.statvfs(folder)
    available = status.f_bavail * status.f_frsize
    if available < needed + RESERVE:
        raise NoSpaceError(
            f"{folder} has {size_text(available)} free and needs {size_text(needed + RESERVE)}",
            remedy="Give the volume more space (emptyDir: sizeLimit; claim: its size)",
        )


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, survive a crash of the machine; a link is not followed."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def touch(folder: Path) -> None:
    """Stamp a folder with the volume's own time; an NFS client then also looks at it anew. Another user's stays."""
    with suppress(FileNotFoundError, PermissionError):
        os.utime(folder)
