"""What of a folder can be sent: checkpoints that are complete, pointers to them, and files that nobody writes to.

A checkpoint of Preheat's is complete when its manifest is there. Other programs say no such thing, so their files have
to be at rest, all of a checkpoint together.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from preheat.bundle.manifest import MANIFEST
from preheat.runs.checkpoint import Checkpoint
from preheat.runs.layouts import find
from preheat.runs.listing import Entry

#: What begins with a dot is being written, but for what torch.distributed.checkpoint calls its metadata.
_METADATA = ".metadata"
#: What programs call a file that they have not finished.
_UNFINISHED = (".tmp", ".part", ".partial", ".incomplete")


#: What tells other programs that a checkpoint is there.
_TELLING = frozenset({"trainer_state.json", _METADATA, "latest"})
_BEGINS = b'{\n "layout": '


@dataclass(frozen=True)
class Unit:
    """What is sent together, in this order: what makes it whole, or points to it, comes last."""

    name: str  # for a person
    files: tuple[Entry, ...]
    manifest: bool = False  # the last one is a manifest, without which the others are nothing

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)


class Rest:
    """Which files have not changed for some seconds, as far as several looks show."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._seen: dict[str, tuple[int, float, float]] = {}  # size, time, and since when they were so

    def look(self, entries: Iterable[Entry]) -> Callable[[Entry], bool]:
        """What each file is like now; answers with whether one is at rest."""
        now, clock = time.monotonic(), time.time()
        seen: dict[str, tuple[int, float, float]] = {}
        for entry in entries:
            known = self._seen.get(entry.path)
            same = known is not None and known[:2] == (entry.size, entry.modified)
            since = known[2] if known and same else now - max(0.0, clock - entry.modified if known is None else 0.0)
            seen[entry.path] = entry.size, entry.modified, since
        self._seen = seen
        return lambda entry: now - seen[entry.path][2] >= self.seconds


def units_in(root: Path, at_rest: Callable[[Sequence[Entry]], Callable[[Entry], bool]], below: str = "") -> list[Unit]:
    """What can be sent now; `at_rest` is shown all files first. Checkpoints come before what may point to them.

    With `below` it is that one file or folder of `root`.
    """
    entries = sorted(_entries(root, below), key=lambda entry: entry.path)
    rests = at_rest(entries)
    found = find(entries)
    own = {entry.folder for entry in entries if entry.name == MANIFEST and _is_ours(root / entry.path)}
    units = [_complete(folder, [entry for entry in entries if _within(entry, folder)]) for folder in sorted(own)]
    others = [each for each in found.checkpoints if each.folder not in own or not each.is_folder]
    units += _checkpoints(others, entries, rests)
    taken = {entry.path for unit in units for entry in unit.files}
    taken |= {entry.path for each in others for entry in _all_files(each, entries)}
    pointers = [each.entry for each in found.pointers if each.entry.path not in taken]
    taken |= {entry.path for entry in pointers}
    loose = [each for each in entries if each.path not in taken and rests(each) and not each.name.endswith(_UNFINISHED)]
    # A pointer is replaced as a whole: what is there can be sent.
    return [*units, *(Unit(entry.path, (entry,)) for entry in [*loose, *pointers])]


def is_one(path: Path) -> bool:
    """Whether a path is one checkpoint or file, and not a folder of them."""
    if not path.is_dir():
        return True
    found = find(sorted(_entries(path.parent, path.name), key=lambda entry: entry.path))
    return _is_ours(path / MANIFEST) or any(each.is_folder and each.folder == path.name for each in found.checkpoints)


def _complete(folder: str, files: Sequence[Entry]) -> Unit:
    """A folder with a manifest of ours, which comes last."""
    last = f"{folder}/{MANIFEST}" if folder else MANIFEST
    return Unit(folder or ".", tuple(sorted(files, key=lambda entry: (entry.path == last, entry.path))), manifest=True)


def _checkpoints(
    found: Sequence[Checkpoint], entries: Sequence[Entry], rests: Callable[[Entry], bool]
) -> Iterator[Unit]:
    for each in sorted(found, key=lambda each: (each.modified, each.path)):
        files = _all_files(each, entries)
        if not each.incomplete and each.layout != "preheat" and all(map(rests, files)):
            yield Unit(each.path, tuple(sorted(files, key=partial(_order, each))))


def _all_files(checkpoint: Checkpoint, entries: Sequence[Entry]) -> list[Entry]:
    if not checkpoint.is_folder:
        return list(checkpoint.files)
    return [entry for entry in entries if _within(entry, checkpoint.folder)]


def _order(checkpoint: Checkpoint, entry: Entry) -> tuple[bool, bool, int, str]:
    """What a checkpoint is told by comes last, and large files before small ones."""
    opened = not checkpoint.is_folder and entry == checkpoint.files[0]
    return opened, entry.name in _TELLING, -entry.size, entry.path


def _within(entry: Entry, folder: str) -> bool:
    return not folder or entry.path.startswith(f"{folder}/")


def _is_ours(manifest: Path) -> bool:
    """Whether a file called `manifest.json` is one of ours; other programs have files of that name."""
    with suppress(OSError), manifest.open("rb") as file:
        return file.read(len(_BEGINS)) == _BEGINS
    return False


def _entries(root: Path, below: str) -> Iterator[Entry]:
    """The regular files at any depth; links are not followed, and what is hidden is left out."""
    if below and not (root / below).is_dir():
        yield from _entry(root, root / below)
        return
    for folder, folders, files in os.walk(root / below):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") or name == _METADATA:
                yield from _entry(root, Path(folder, name))


def _entry(root: Path, path: Path) -> Iterator[Entry]:
    with suppress(FileNotFoundError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode):
            yield Entry(path.relative_to(root).as_posix(), found.st_size, found.st_mtime)
