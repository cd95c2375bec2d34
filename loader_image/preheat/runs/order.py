"""Which of two checkpoints is newer. The order is total: equal input, in whatever order, gives equal output."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

from preheat.runs.checkpoint import Checkpoint

_DIGITS = re.compile(r"([0-9]+)")
_SUFFIX = re.compile(r"\.[A-Za-z]+/?$")  # a version, -v1, stands before it and would be sorted by it


def newest_first(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Those whose name tells a position by position, and between them, by the time of their files, those without one.

    Of equal positions the one modified last comes first, and of equal times the one whose name is last.
    """
    every = sorted(checkpoints, key=_age, reverse=True)
    unplaced = deque(each for each in every if not each.position)
    placed = sorted((each for each in every if each.position), key=_order, reverse=True)  # stable: ties stay by age
    merged: list[Checkpoint] = []
    for checkpoint in placed:
        while unplaced and _age(unplaced[0]) > _age(checkpoint):
            merged.append(unplaced.popleft())
        merged.append(checkpoint)
    return [*merged, *unplaced]


def _order(checkpoint: Checkpoint) -> tuple[int, int, int]:
    assert checkpoint.position is not None  # noqa: S101 - for the type checker
    return checkpoint.position.order


def _age(checkpoint: Checkpoint) -> tuple[float, bool, list[tuple[int, int, str]]]:
    """What is newer is greater; of equal times one with a position, which nobody writes anew, and the later name."""
    return checkpoint.modified, checkpoint.position is not None, natural(_SUFFIX.sub("", checkpoint.path))


def natural(text: str) -> list[tuple[int, int, str]]:
    """A key to sort by in which numbers count by their value."""
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in _DIGITS.split(text)]
