"""How a checkpoint is removed so that nobody ever sees half of one.

On a disk it gets a name that nobody looks for, in one step, and then goes. In a bucket the file goes first by which it
is told: whoever is killed in between leaves one that is not complete.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from preheat.bundle.leftovers import remove as remove_folder
from preheat.bundle.manifest import MANIFEST
from preheat.bundle.storage import storage_errors, sync
from preheat.runs.checkpoint import Checkpoint
from preheat.runs.layouts import AUTO
from preheat.runs.listing import Entry
from preheat.runs.order import newest_first
from preheat.runs.retention import FORGOTTEN, Retention, Ruling, rule
from preheat.runs.shelf import Shelf
from preheat.sources.local import LocalSource
from preheat.stage import Place
from preheat.uploading.target import Target
from preheat.uploading.targets import target_of

_REMOVED, _UNFINISHED = ".pruned-", ".partial-"
#: What tells that a checkpoint is there, in a bucket or on a disk where it is no folder.
_TELLING = (MANIFEST, ".metadata", "trainer_state.json", "latest")


def prune(place: Place, retention: Retention, layout: str = AUTO) -> list[Ruling]:
    """Remove the checkpoints in a place that nothing keeps, and answer with what was ruled on each.

    What callbacks that save call when they have saved. Raises a CheckpointError where it is not sure what may go.
    """
    shelf = Shelf.look(place, layout)
    rulings = rule(shelf.checkpoints, retention, shelf.known(metrics=bool(retention.best)))
    remove(shelf, [ruling.checkpoint for ruling in rulings if not ruling.stays])
    return rulings


def remove(shelf: Shelf, checkpoints: Sequence[Checkpoint]) -> None:
    """Remove checkpoints of a shelf, the oldest first, after what others have left half removed."""
    _sweep(shelf)
    oldest_first = reversed(newest_first(checkpoints))
    if isinstance(shelf.place, LocalSource):
        root = Path(shelf.place.uri)
        with storage_errors(root):
            for checkpoint in oldest_first:
                _remove_here(root, checkpoint)
        return
    with closing(target_of(shelf.place, shelf.patience)) as target:
        for checkpoint in oldest_first:
            _remove_there(shelf, checkpoint, target)


def _sweep(shelf: Shelf) -> None:
    """Remove from a disk what was being removed, or saved, by processes that were killed."""
    if not isinstance(shelf.place, LocalSource):
        return
    root = Path(shelf.place.uri)
    with storage_errors(root):
        for home in sorted({root / each.home for each in shelf.checkpoints}):
            for path in home.iterdir():
                if path.name.startswith(".") and (_REMOVED in path.name or _forgotten(path)):
                    remove_folder(path)


def _forgotten(path: Path) -> bool:
    """Whether it was being saved, and nobody does any more."""
    if _UNFINISHED not in path.name:
        return False
    with suppress(FileNotFoundError):
        newest = max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
        return time.time() - newest > FORGOTTEN
    return False


def _remove_here(root: Path, checkpoint: Checkpoint) -> None:
    if not checkpoint.is_folder:
        for entry in _in_order(checkpoint.files):
            (root / entry.path).unlink(missing_ok=True)
        return
    folder = root / checkpoint.folder
    grave = folder.with_name(f".{folder.name}{_REMOVED}{os.urandom(6).hex()}")
    with suppress(FileNotFoundError):  # another was faster
        folder.rename(grave)
        sync(folder.parent)
        remove_folder(grave)


def _remove_there(shelf: Shelf, checkpoint: Checkpoint, target: Target) -> None:
    files = checkpoint.files
    if checkpoint.is_folder:
        files = tuple(entry for entry in shelf.listing.entries if entry.path.startswith(checkpoint.path))
    for entry in _in_order(files):
        target.remove(entry.path)


def _in_order(files: Sequence[Entry]) -> list[Entry]:
    """The file by which a checkpoint is told comes first."""
    return sorted(files, key=lambda entry: entry.name not in _TELLING)  # stable: else the first is the one that counts
