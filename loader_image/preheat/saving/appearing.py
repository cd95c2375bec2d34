"""Folders that appear whole: made under another name, and given their own when all is on the disk.

Whoever is killed in between leaves a folder that nobody takes for a checkpoint; the next one that saves removes it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from preheat.bundle.contents import FORGOTTEN
from preheat.bundle.leftovers import remove
from preheat.bundle.storage import sync

_PARTIAL = ".partial-"
_AT_FDCWD, _EXCHANGE = -100, 2


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to write to, which takes the place of `folder` when the block is left well; else nothing remains.

    An earlier folder of the name is there until the new one is. Raises OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_forgotten(folder.parent)
    scratch = folder.with_name(f".{folder.name}{_PARTIAL}{os.urandom(4).hex()}")
    scratch.mkdir()
    held = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a volume without locks
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield scratch
        sync(scratch)
        _put(scratch, folder)
        sync(folder.parent)
    finally:
        os.close(held)
        remove(scratch)  # also the folder that was there before, after an exchange


def _put(scratch: Path, folder: Path) -> None:
    if not folder.exists():
        scratch.rename(folder)
    elif not _exchanged(scratch, folder):
        before = folder.with_name(f".{folder.name}{_PARTIAL}{os.urandom(4).hex()}")
        folder.rename(before)
        scratch.rename(folder)
        shutil.rmtree(before, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders change places at once; False where the system or the volume cannot."""
    with suppress(AttributeError, OSError):
        rename = ctypes.CDLL(None, use_errno=True).renameat2
        return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0)
    return False


def _remove_forgotten(parent: Path) -> None:
    """What processes left that were killed: nobody holds its lock, or it is older than anyone takes."""
    for folder in parent.glob(f".*{_PARTIAL}*"):
        if _is_left(folder):
            remove(folder)


def _is_left(folder: Path) -> bool:
    try:
        forgotten = time.time() - folder.lstat().st_mtime > FORGOTTEN
        if not folder.is_dir():  # a pointer that somebody writes
            return forgotten
        fd = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a volume without locks
        return forgotten
    finally:
        os.close(fd)
    return True
