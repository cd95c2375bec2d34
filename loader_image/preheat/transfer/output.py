"""The file that a transfer writes: new, or one that an earlier transfer did not finish."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preheat.bundle.storage import require_space
from preheat.transfer.checksum import crc32
from preheat.transfer.journal import Journal

_OPENING = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


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
