"""Bytes on their way from the source into an output, and the runs in which they are read.

A checkpoint of 100,000 tensors has as many moves: those of a plan are columns, and each is made when it is asked for.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import eq
from typing import overload

from preheat.errors import CheckpointValidationError
from preheat.index import Record, Tensor


@dataclass(frozen=True, slots=True)
class Move:
    """A tensor, or a part of one, on its way from the source into the output: `tensor.final_size` bytes at `target`.

    Bytes [start, stop) of the source must pass: the tensor's own, or its whole record where a CRC is checked.
    """

    name: str
    tensor: Tensor
    target: int | None  # offset in the output file; None: the bytes pass to be checked, a Gathering brings the values
    start: int
    stop: int


class Moves(Sequence[Move]):
    """Moves of `tensors` in the order of the source."""

    def __init__(self, tensors: Mapping[str, Tensor], moves: Iterable[tuple[int, Move]]) -> None:
        """Take moves in any order, each with the position of its part in its tensor."""
        self._tensors = tensors
        self._names: list[str] = []
        self._parts = array("I")
        self._starts, self._stops, self._targets = array("q"), array("q"), array("q")
        for part, move in moves:
            self._add(part, move)
        order = list(range(len(self._names)))
        for column in (self._targets, self._stops, self._starts):
            order.sort(key=column.__getitem__)
        self._order = array("I", order)

    def _add(self, part: int, move: Move) -> None:
        try:
            self._targets.append(_NOWHERE if move.target is None else move.target)
            self._starts.append(move.start)
            self._stops.append(move.stop)
        except OverflowError:
            raise CheckpointValidationError(
                f"tensor {move.name!r} claims bytes {move.start}...{move.stop}, and no file has so many"
            ) from None
        self._names.append(move.name)
        self._parts.append(part)

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, at: int) -> Move: ...

    @overload
    def __getitem__(self, at: slice) -> Moves: ...

    def __getitem__(self, at: int | slice) -> Move | Moves:
        if isinstance(at, int):
            return self._made(self._order[at])
        return self._chosen(self._order[at])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Moves) and len(self) == len(other) and all(map(eq, self, other))

    def reaches(self) -> Iterator[tuple[int, int]]:
        """The bytes [start, stop) of each, in order."""
        return ((self._starts[row], self._stops[row]) for row in self._order)

    def in_the_output(self) -> Moves:
        """Those that have a target, in the order of the output."""
        rows = [row for row in self._order if self._targets[row] != _NOWHERE]
        return self._chosen(array("I", sorted(rows, key=self._targets.__getitem__)))

    def names(self) -> Iterator[str]:
        """The name of each."""
        return (self._names[row] for row in self._order)

    def targets(self) -> array[int]:
        """Where the output's bytes begin that each brings."""
        return array("q", (self._targets[row] for row in self._order))

    def _chosen(self, order: array[int]) -> Moves:
        some = object.__new__(Moves)
        some.__dict__.update(self.__dict__, _order=order)
        return some

    def _made(self, row: int) -> Move:
        name, target = self._names[row], self._targets[row]
        tensor = self._tensors[name]
        if tensor.parts:
            tensor = replace(tensor.parts[self._parts[row]].tensor, cast=tensor.cast)
        return Move(name, tensor, None if target == _NOWHERE else target, self._starts[row], self._stops[row])


_NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Span:
    """A run of source bytes to read in one go, and the moves that lie in it; gaps between them are read and dropped."""

    start: int
    stop: int
    moves: Sequence[Move]

    @property
    def records(self) -> tuple[Record, ...]:
        """The records that pass as a whole, in the order of their bytes."""
        found = {move.tensor.record: None for move in self.moves}
        whole = (record for record in found if self.start <= record.start and record.stop <= self.stop)
        return tuple(sorted(whole, key=lambda record: record.start))

    def apart(self) -> Iterator[Span]:
        """The shortest spans that it consists of: no tensor lies in two of them."""
        coming = iter(self.moves)
        return (
            Span(start, stop, tuple(islice(coming, last - first))) for start, stop, first, last in _units(self.moves)
        )


def coalesce(moves: Iterable[Move], *, max_gap: int, max_length: int) -> tuple[Span, ...]:
    """Spans that cover `moves`, each byte once, bridging gaps of at most `max_gap` bytes.

    A span is longer than `max_length` only where one tensor is, or several that share their bytes.
    """
    ordered = moves if isinstance(moves, Moves) else tuple(sorted(moves, key=_by_source))
    runs: list[tuple[int, int, int, int]] = []
    for start, stop, first, last in _units(ordered):
        before = runs[-1] if runs else None
        if before and start - before[1] <= max_gap and stop - before[0] <= max_length:
            runs[-1] = (before[0], stop, before[2], last)
        else:
            runs.append((start, stop, first, last))
    return tuple(Span(start, stop, ordered[first:last]) for start, stop, first, last in runs)


def _units(ordered: Sequence[Move]) -> Iterator[tuple[int, int, int, int]]:
    """Runs of moves that overlap one another: their bytes [start, stop), and which moves [first, last) they are."""
    reaches = ordered.reaches() if isinstance(ordered, Moves) else ((move.start, move.stop) for move in ordered)
    start = stop = first = last = 0
    for begin, end in reaches:
        if last > first and begin >= stop:
            yield start, stop, first, last
            first = last
        if first == last:
            start = stop = begin
        stop, last = max(stop, end), last + 1
    if last > first:
        yield start, stop, first, last


def _by_source(move: Move) -> tuple[int, int, int]:
    return move.start, move.stop, move.target or 0
