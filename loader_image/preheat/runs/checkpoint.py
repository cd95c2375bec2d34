"""A checkpoint as a listing shows it: what its name, its files and their times say, before any of them is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from preheat.runs.listing import Entry
from preheat.runs.position import Position


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a run.

    `name` tells it from all others in its folder. `training` says whether a training can go on from it: None where the
    listing does not tell. `incomplete` says what is missing; such a checkpoint is never chosen.
    """

    layout: str
    name: str
    files: tuple[Entry, ...]  # the first is the one that is opened, or any of its folder
    folder: str = ""  # that it is, or else that its files are in, below the root; no slash at its end
    is_folder: bool = False
    model: str = ""
    info: str = ""
    tag: str = ""  # what it is called besides by its position: latest, last, best.loss
    position: Position | None = None
    interrupted: bool = False  # a signal made the training save it
    part: bool = False  # of a model, and not all of it
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)  # that its name tells
    training: bool | None = None
    lacks: tuple[str, ...] = ()  # files without which no training can go on from it
    incomplete: str = ""

    @property
    def home(self) -> str:
        """The folder that holds the run's checkpoints."""
        return self.folder.rpartition("/")[0] if self.is_folder else self.folder

    @property
    def path(self) -> str:
        """Where it is below the root, for a person: its file, or its folder with a slash."""
        return f"{self.folder}/" if self.is_folder else self.files[0].path

    def is_at(self, path: str) -> bool:
        """Whether what was opened at a path below the root was this checkpoint, or the file with its weights."""
        return (
            path.startswith(f"{self.folder}/") if self.is_folder else path == f"{self.folder}/{self.name}".lstrip("/")
        )

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(entry.size for entry in self.files)

    @property
    def modified(self) -> float:
        """When the last of its files was written, seconds since the epoch."""
        return max((entry.modified for entry in self.files), default=0.0)


@dataclass(frozen=True)
class Pointer:
    """A file that names a checkpoint beside it: what `latest`, `best.loss` and tags are where they are no copies.

    What it says has to be read; `layout` knows how. One whose tag is `best` may know the best by several metrics: it is
    asked for one by the tag `best.<metric>`.
    """

    layout: str
    entry: Entry
    tag: str
    model: str = ""
    info: str = ""
    beside: str | None = None  # the folder of the checkpoints that it may name; None: the one that it is in

    @property
    def home(self) -> str:
        """The folder of the checkpoints that it may name."""
        return self.entry.folder if self.beside is None else self.beside


@dataclass(frozen=True)
class Found:
    """What a layout finds in a listing."""

    checkpoints: tuple[Checkpoint, ...] = ()
    pointers: tuple[Pointer, ...] = ()
