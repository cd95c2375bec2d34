"""Whether the process that a pod's folder was laid out for still runs, where there is no pod but a process.

It holds a lock on a file in the folder for as long as it lives, whatever program it becomes, and the kernel knows. Of a
folder without such a file, and where a volume has no locks, nothing can be told.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from preheat.bundle.leftovers import bury, is_free

RUNNING = "running"


def show_life(folder: Path) -> None:
    """Lock the folder's file by a descriptor that stays open in the program that this process becomes."""
    scratch = folder / f".{RUNNING}"  # nobody looks for it before it is locked
    fd = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    os.set_inheritable(fd, True)
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        scratch.rename(folder / RUNNING)


def has_ended(folder: Path) -> bool:
    """Whether the folder belongs to a process, and that has ended."""
    return is_free(folder / RUNNING)


def forget_ended(pods: Path) -> None:
    """Remove the folders of processes that have ended, so that nothing counts as used by them."""
    for file in pods.glob(f"*/{RUNNING}"):
        if has_ended(file.parent):
            bury(file.parent)
