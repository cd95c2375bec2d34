"""What a fuzz target may say: a claim that did not hold, or that an input was refused as it should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from preheat.errors import CheckpointError

T = TypeVar("T")


class FindingError(Exception):
    """A parser did what it must not do."""


def claim(holds: bool, otherwise: str) -> None:
    """Raise FindingError unless the claim holds."""
    if not holds:
        raise FindingError(otherwise)


def accepted(read: Callable[[], T]) -> T | None:
    """What the parser gives; None where it refuses with an error of Preheat's. Anything else goes through."""
    try:
        return read()
    except CheckpointError:
        return None
