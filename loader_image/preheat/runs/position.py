"""Where a training was when it saved: epochs, updates and samples, spelled `E10_U100_S200`."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Digits alone: Python's int() would take 1_0, ' 10' and -3 as well.
_NUMBER = "[0-9]{1,18}"
_POSITION = re.compile(rf"(?:E({_NUMBER}))?(?:(?:(?<=[0-9])_|^)U({_NUMBER}))?(?:(?:(?<=[0-9])_|^)S({_NUMBER}))?")


@dataclass(frozen=True)
class Position:
    """Counts since the training began; None: not known, or not meant."""

    epoch: int | None = None
    update: int | None = None
    sample: int | None = None

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """The position that a text spells, of one part or more; None when it is anything else."""
        found, rest = cls.split(text)
        return found if found and not rest else None

    @classmethod
    def split(cls, text: str) -> tuple[Position | None, str]:
        """The position that a text begins with, and what follows it."""
        found = _POSITION.match(text)
        if not found or not found[0]:
            return None, text
        parts = (int(part) if part is not None else None for part in found.groups())
        return cls(*parts), text[found.end() :]

    @property
    def full(self) -> bool:
        """Whether all three are known."""
        return None not in (self.epoch, self.update, self.sample)

    @property
    def order(self) -> tuple[int, int, int]:
        """What positions of a run are sorted by: updates, then samples, then epochs; what is not known comes first."""
        update, sample, epoch = (-1 if n is None else n for n in (self.update, self.sample, self.epoch))
        return update, sample, epoch

    def fits(self, other: Position) -> bool:
        """Whether everything that this position says is true of the other."""
        return all(mine in (None, theirs) for mine, theirs in zip(self._parts(), other._parts(), strict=True))

    def __str__(self) -> str:
        return "_".join(f"{letter}{n}" for letter, n in zip("EUS", self._parts(), strict=True) if n is not None)

    def _parts(self) -> tuple[int | None, int | None, int | None]:
        return self.epoch, self.update, self.sample
