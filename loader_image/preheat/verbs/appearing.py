"""Files that get their names when they are whole and on the disk, in a given order, or not at all."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from preheat.bundle.lease import died_here, owner_here
from preheat.bundle.storage import storage_errors, sync
from preheat.errors import StorageError


def check_free(target: Path, force: bool) -> None:
    """Raise StorageError where no file can be made, or one is that is not to be replaced."""
    if not target.parent.is_dir():
        raise StorageError(f"there is no folder {target.parent}", remedy="Make it, or correct the path")
    if target.is_dir():
        raise StorageError(f"{target} is a folder", remedy="Name a file")
    if os.path.lexists(target) and not force:
        raise _exists(target)


@contextmanager
def appearing(targets: Sequence[Path], force: bool) -> Iterator[list[Path]]:
    """Names for files that are to be made in one folder; they become `targets` when the block ends well.

    The last target comes last, and is the first to go where it is replaced: while it is there, all others are, too.
    What a process of this machine left that was killed here is removed.
    """
    ours = f".partial-{os.urandom(4).hex()}-{owner_here()}"
    scratches = [target.with_name(f".{target.name}{ours}") for target in targets]
    for target in targets:
        _remove_left(target)
    try:
        yield scratches
        with storage_errors(targets[0].parent):
            for scratch in scratches:
                sync(scratch)
            _name_all(scratches, targets, force)
            sync(targets[0].parent)
    finally:
        for scratch in scratches:
            scratch.unlink(missing_ok=True)


def _remove_left(target: Path) -> None:
    for left in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        if died_here(left.name):
            left.unlink(missing_ok=True)


def _name_all(scratches: Sequence[Path], targets: Sequence[Path], force: bool) -> None:
    if force and len(targets) > 1:
        targets[-1].unlink(missing_ok=True)
        sync(targets[-1].parent)
    named: list[Path] = []
    try:
        for scratch, target in zip(scratches, targets, strict=True):
            _name(scratch, target, force)
            named.append(target)
    except StorageError:
        for target in named:
            target.unlink(missing_ok=True)
        raise


def _name(scratch: Path, target: Path, force: bool) -> None:
    """Rename; without `force` by a link, which never takes the place of a file that came meanwhile."""
    if not force:
        try:
            os.link(scratch, target)
            return
        except FileExistsError:
            raise _exists(target) from None
        except OSError:  # a file system without hard links
            if os.path.lexists(target):
                raise _exists(target) from None
    scratch.rename(target)


def _exists(target: Path) -> StorageError:
    return StorageError(f"{target} exists", remedy="Take another name, or replace it with --force (`force=True`)")
