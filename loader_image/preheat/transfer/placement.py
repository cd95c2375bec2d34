"""Puts bytes of the source where they belong in the output: looked at and cast on the way, whoever read them."""

from __future__ import annotations

import os
from array import array
from typing import TYPE_CHECKING, Any

from preheat.checks import Findings
from preheat.errors import StorageError
from preheat.moves import Move
from preheat.transfer.checksum import crc32
from preheat.transfer.pieces import Stretch

if TYPE_CHECKING:
    from preheat.transfer.cast import Casting
    from preheat.transfer.finite import FiniteCheck


class Placement:
    """One thread's way into the file `target`; what is not `finite` is found, if asked for.

    numpy is imported when a tensor needs it.
    """

    def __init__(self, target: int, finite: Findings | None) -> None:
        self._target = target
        self._findings = finite
        self._finite: FiniteCheck | None = finite_check(finite) if finite else None
        self._casting: Casting | None = None
        self._cast: dict[int, tuple[int, int]] = {}

    def place(self, stretch: Stretch, part: memoryview, begin: int) -> None:
        """Write `part`, which lies at byte `begin` of the source, for every tensor of the stretch."""
        for move in stretch.moves:
            if move.tensor.cast:
                self._place_cast(move, part, begin)
                continue
            if self._finite:
                self._finite.feed(move.name, move.tensor.dtype, part)
            write(self._target, part, _place(move) + begin - move.tensor.start)

    def casting(self) -> Casting:
        """What casts this thread's tensors."""
        if not self._casting:
            from preheat.transfer.cast import Casting

            self._casting = Casting(self._findings)
        return self._casting

    def take_cast(self) -> array[int]:
        """Of what was cast and written since the last call: each move's target, checksum and bytes."""
        taken, self._cast = self._cast, {}
        return array("q", (value for target, found in taken.items() for value in (target, *found)))

    def _place_cast(self, move: Move, part: memoryview, begin: int) -> None:
        for offset, values in self.casting().feed(move.name, move.tensor, begin - move.tensor.start, part):
            write(self._target, values, _place(move) + offset)
            checksum, length = self._cast.get(_place(move), (0, 0))
            self._cast[_place(move)] = crc32(values, checksum), length + len(values)


def _place(move: Move) -> int:
    assert move.target is not None  # noqa: S101 - what only has to be checked is in no stretch's moves
    return move.target


def finite_check(findings: Findings) -> FiniteCheck:
    """What looks for NaN and infinity."""
    from preheat.transfer.finite import FiniteCheck  # numpy is imported when something needs it

    return FiniteCheck(findings)


def write(target: int, part: bytes | memoryview, offset: int) -> None:
    """Write all of `part` at `offset` of an open file."""
    view: Any = memoryview(part)
    while view:
        count = os.pwrite(target, view, offset)
        if not count:
            raise StorageError("the volume took none of the bytes", remedy="Check the volume")
        view, offset = view[count:], offset + count
