"""By which rule each legacy system finds its checkpoint, so that its choice can be shown beside ours.

The rules are those of the systems' code, traps included; what a rule cannot say, because it depends on the order in
which a folder is listed, it says.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Chosen:
    """A file, or why there is none; and what the choice hung on."""

    path: Path | None
    why: str


class Choice(ABC):
    """A rule."""

    @abstractmethod
    def choose(self) -> Chosen:
        """Apply it to the files that are there."""


@dataclass(frozen=True)
class ThatFile(Choice):
    """A file that is named, and no other."""

    path: str

    def choose(self) -> Chosen:
        """It, if it is there."""
        path = Path(self.path).expanduser()
        return Chosen(path, "named") if path.exists() else Chosen(None, f"{path} is not there")


@dataclass(frozen=True)
class NewestFile(Choice):
    """linnaeus' AUTO_RESUME: the file that was written last, whatever it is called; else another rule."""

    folder: str
    suffix: str
    otherwise: Choice | None = None

    def choose(self) -> Chosen:
        """By modification time."""
        there = sorted(Path(self.folder).glob(f"*{self.suffix}"), key=lambda path: path.stat().st_mtime)
        if there:
            return Chosen(there[-1], f"the newest of {len(there)} by modification time, complete or not")
        missing = Chosen(None, f"no *{self.suffix} in {self.folder}: training begins with random weights")
        return self.otherwise.choose() if self.otherwise else missing


@dataclass(frozen=True)
class FirstOfThatName(Choice):
    """linnaeus' resolver: an absolute path, else the first file of that name anywhere in the cache."""

    name: str
    cache: str
    bucket: bool

    def choose(self) -> Chosen:
        """As the folder is listed; the bucket is not asked."""
        if os.path.isabs(self.name):
            return ThatFile(self.name).choose()
        there = list(Path(self.cache).rglob(self.name)) if self.cache and Path(self.cache).is_dir() else []
        if len(there) > 1:
            return Chosen(there[0], f"the first of {len(there)} of that name, in the order of the file system")
        if there:
            return Chosen(there[0], "found in the cache")
        lost = "copied there from the bucket" if self.bucket else "not found: training begins with random weights"
        return Chosen(None, f"no {self.name} in {self.cache or 'the cache'}: {lost}")


@dataclass(frozen=True)
class ListedFirst(Choice):
    """Noether: a tag is a file's name; of a number it takes the first file that the folder lists with it."""

    folder: str
    model: str | None
    tag: str
    info: str | None = None

    def choose(self) -> Chosen:
        """As the folder is listed."""
        folder = Path(self.folder)
        if not folder.is_dir():
            return Chosen(None, f"{folder} is not there")
        wanted = re.fullmatch(r"([EUS])(\d+)", self.tag)
        names = [name for name in os.listdir(folder) if name.endswith("_model.th") and self._is_of(name)]
        found = [name for name in names if _has(name, *wanted.groups())] if wanted else _tagged(names, self.tag)
        if not found:
            return Chosen(None, f"no file with {self.tag} in {folder}: the run ends with FileNotFoundError")
        why = f"the first of {len(found)} that the folder lists" if len(found) > 1 else "the one with that tag"
        return Chosen(folder / found[0], why)

    def _is_of(self, name: str) -> bool:
        of_model = self.model is None or name.startswith((f"{self.model}_cp=", f"{self.model}_{self.info}_cp="))
        return of_model and (self.info is None or self.info in name)


@dataclass(frozen=True)
class NewestTimestamp(Choice):
    """Stack-Wise: the checkpoint whose `timestamp` is the last; every file is read for it."""

    folder: str

    def choose(self) -> Chosen:
        """By what the files say of themselves, read without unpickling."""
        from preheat.errors import CheckpointError
        from preheat.verbs.inspection import inspect

        stamped = []
        for path in sorted(Path(self.folder).glob("*.pt")):
            try:
                state = inspect(path).state
            except CheckpointError:
                continue  # as the original, which passes over what it cannot read
            stamped.append((str(state.get("timestamp", "")) if isinstance(state, dict) else "", path))
        if not stamped:
            return Chosen(None, f"no *.pt in {self.folder} that can be read")
        return Chosen(max(stamped)[1], f"the newest timestamp in {len(stamped)} files, each of which is read whole")


def _has(name: str, unit: str, number: str) -> bool:
    found = re.search(r"E(\d+)_U(\d+)_S(\d+)", name)
    return found is not None and int(found["EUS".index(unit) + 1]) == int(number)


def _tagged(names: list[str], tag: str) -> list[str]:
    return [name for name in names if re.search(rf"_cp={re.escape(tag)}(?:_model\.th|_[^=]+=)", name)]
