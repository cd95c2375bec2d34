"""The file that a transfer writes: new, or one that an earlier transfer did not finish."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from preheat.bundle.storage import require_space
from preheat.transfer.checksum import crc32
from preheat.transfer.journal import Journal

_OPENING = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
#: File systems that set room aside without writing it: a full disk is told first, and what follows is written faster.
#: On tmpfs it would take as long as the writing, and where it is not supported glibc writes zeros instead.
_RESERVING = frozenset({"ext4", "xfs"})


@contextmanager
def opened(path: Path, size: int, journal: Journal | None) -> Iterator[int]:
    """A descriptor of a file of `size` bytes; raises OSError, and NoSpaceError without room for the rest of it.

    With a journal the file is its own: it is gone on with where there are entries, otherwise replaced.
    """
    target = _again(path, size) if journal and journal.found else None
    if target is None:
        if journal:
            journal.found.clear()
            path.unlink(missing_ok=True)
        require_space(path.parent, size)
        target = os.open(path, _OPENING | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        os.truncate(target, size)
        if size and file_system_of(target) in _RESERVING:
            os.posix_fallocate(target, 0, size)
        yield target
    finally:
        os.close(target)


def checksum_of(target: int, start: int, length: int, buffer: memoryview) -> int | None:
    """CRC-32 of bytes of an open file; None when it has not so many."""
    checksum, position, stop = 0, start, start + length
    while position < stop:
        view = buffer[: min(len(buffer), stop - position)]
        count = os.preadv(target, [view], position)
        if not count:
            return None
        checksum = crc32(view[:count], checksum)
        position += count
    return checksum


def file_system_of(fd: int) -> str:
    """The type of the file system that an open file is on, as Linux calls it; empty where that cannot be told."""
    device = os.fstat(fd).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            mount, _, kind = line.partition(" - ")
            if mount.split(" ")[2] == number:
                return kind.partition(" ")[0]
    return ""


def _again(path: Path, size: int) -> int | None:
    try:
        target = os.open(path, _OPENING | os.O_NONBLOCK)
    except OSError:
        return None
    status = os.fstat(target)
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        os.close(target)
        return None
    try:
        require_space(path.parent, max(0, size - status.st_blocks * 512))
    except BaseException:
        os.close(target)
        raise
    return target
