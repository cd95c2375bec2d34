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

_JOURNAL = ".journal"


def journal_of(output: Path) -> Path:
    """Where it is written down what of `output` is finished."""
    return output.with_name(output.name + _JOURNAL)


def journals_in(folder: Path) -> list[Path]:
    """Those that are there."""
    if folder.is_symlink():
        return []
    return [path for path in folder.glob("*" + _JOURNAL) if stat.S_ISREG(path.lstat().st_mode)]


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
    if not journals_in(folder):
        bury(folder)
        return
    digest = folder.name.split("-")[1]
    with suppress(FileNotFoundError):
        folder.rename(folder.with_name(f".partial-left-{digest}-{os.urandom(8).hex()}"))


def inherit(folder: Path, digest: str) -> None:
    """Move into `folder` what the makers of the same bundle left that came furthest; what the others left goes."""
    inherited = False
    for left in sorted(folder.parent.glob(f".partial-left-{digest}-*"), key=_progress, reverse=True):
        grave = _take_away(left)
        if not grave:
            continue
        journals = journals_in(grave)
        if not inherited and journals and all(map(is_free, journals)):
            with suppress(OSError):  # of another user: we begin anew
                for journal in journals:
                    for path in (journal.with_name(journal.name.removesuffix(_JOURNAL)), journal):
                        path.rename(folder / path.name)
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


def _progress(folder: Path) -> int:
    return sum(journal.lstat().st_size for journal in journals_in(folder))


def is_free(file: Path) -> bool:
    """Whether the file is there and nobody holds its lock, as far as this volume can tell."""
    try:
        # NFS locks only what may be written; a pipe in the file's place must not block.
        fd = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # not there, or another user's
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
