"""What becomes of the folders of makers that did not get to their end: removed, or kept for the next one to go on.

Only what has a journal is kept, and only what nobody writes to any more is taken over: its maker holds a lock on the
journal for as long as it lives, and the kernel knows. Where a volume has no locks nothing is taken over.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from preheat.bundle.manifest import WEIGHTS

JOURNAL = "journal"


def remove(path: Path) -> None:
    """Remove a folder, or the link that stands in its place; nothing there is fine, and links are not followed."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    elif path.exists():
        shutil.rmtree(path, ignore_errors=True)  # another may be removing it, too


def bury(folder: Path) -> bool:
    """Remove a folder such that nobody can put what is left of it to use, a maker that lives after all, for one.

    False when it was not there.
    """
    grave = _take_away(folder)
    if grave:
        remove(grave)
    return grave is not None


def set_aside(folder: Path) -> None:
    """As `bury`, but keep what the next maker of the same bundle can go on with."""
    if folder.is_symlink() or not _journal_size(folder):
        bury(folder)
        return
    digest = folder.name.split("-")[1]
    with suppress(FileNotFoundError):
        folder.rename(folder.with_name(f".partial-left-{digest}-{os.urandom(8).hex()}"))


def inherit(folder: Path, digest: str) -> None:
    """Move into `folder` what the makers of the same bundle left that came furthest; what the others left goes."""
    inherited = False
    for left in sorted(folder.parent.glob(f".partial-left-{digest}-*"), key=_journal_size, reverse=True):
        grave = _take_away(left)
        if not grave:
            continue
        if not inherited and not grave.is_symlink() and _is_free(grave / JOURNAL):
            with suppress(OSError):  # of another user: we begin anew
                for name in (WEIGHTS, JOURNAL):
                    (grave / name).rename(folder / name)
                inherited = True
        remove(grave)


def _take_away(folder: Path) -> Path | None:
    """Rename to what is nobody's; None when another was faster."""
    grave = folder.with_name(f".partial-removed-{os.urandom(8).hex()}")
    try:
        folder.rename(grave)
    except FileNotFoundError:
        return None
    return grave


def _journal_size(folder: Path) -> int:
    try:
        status = (folder / JOURNAL).lstat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _is_free(journal: Path) -> bool:
    """Whether nobody holds the lock, as far as this volume can tell."""
    try:
        fd = os.open(journal, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)  # NFS locks only what may be written
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
