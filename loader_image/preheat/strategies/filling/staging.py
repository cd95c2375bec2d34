"""Moves that cannot be read straight into their targets, cut into pieces and packed into lots of one slot's size.

A lot is read into host memory, from there it goes to its targets: cast, cut out of whole rows, or to another device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod

import torch

from preheat.strategies.filling.moves import Move, part_of
from preheat.strategies.filling.reads import Read, joined, views_of
from preheat.strategies.filling.slices import Region, Spans
from preheat.strategies.filling.tensors import DTYPES, memory_of

#: Bytes of rows that are read whole and cut: the processor still has them at hand when it cuts.
_ROWS = 1 << 20

#: Where a piece may begin in a lot: torch views memory as a dtype at its multiples only.
ALIGNMENT = 16


@dataclass(frozen=True)
class Piece:
    """A part of a model's tensor, and the bytes in the blob that its values are made of."""

    target: torch.Tensor
    spans: tuple[tuple[int, int], ...]  # start in the blob, size
    dtype: torch.dtype  # of the bytes
    shape: tuple[int, ...]  # of the bytes
    region: Region | None = None  # which part of `shape` the target is
    cast: torch.dtype | None = None  # on the way, before the target's own dtype

    @property
    def size(self) -> int:
        """Bytes in the blob."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def plain(self) -> bool:
        """Whether the target's memory is the bytes as they are."""
        target = self.target
        exact = self.region is None and self.cast is None and target.dtype == self.dtype
        return exact and target.is_contiguous() and not (target.is_conj() or target.is_neg())

    def values(self, staged: torch.Tensor) -> torch.Tensor:
        """What the target receives, as a view of its bytes where that is possible. Moved first, cast there."""
        stored = staged.to(self.target.device).view(self.dtype).view(self.shape)
        values = part_of(stored, self.region)
        return values if self.cast is None else values.to(self.cast)


@dataclass
class Lot:
    """Pieces that share one slot, each with its place in it."""

    pieces: list[tuple[int, Piece]] = field(default_factory=list)
    size: int = 0

    def reads(self, staged: torch.Tensor) -> Iterator[Read]:
        """How to get the bytes into `staged`."""
        memory = memory_of(staged)
        return joined(v for at, piece in self.pieces for v in views_of(piece.spans, memory[at : at + piece.size]))

    def deliver(self, staged: torch.Tensor) -> None:
        """Copy the values into their targets; `staged` is the slot's memory, or its copy on their device."""
        targets = [piece.target for _, piece in self.pieces]
        torch._foreach_copy_(targets, [piece.values(staged[at : at + piece.size]) for at, piece in self.pieces])


def lots_of(moves: Iterable[Move], limit: int) -> Iterator[Lot]:
    """Moves as lots of at most `limit` bytes, in their order; what is small shares one."""
    lot = Lot()
    for move in moves:
        for piece in pieces_of(move, limit):
            at = -(-lot.size // ALIGNMENT) * ALIGNMENT
            if lot.pieces and at + piece.size > limit:
                yield lot
                lot, at = Lot(), 0
            lot.pieces.append((at, piece))
            lot.size = at + piece.size
    if lot.pieces:
        yield lot


def pieces_of(move: Move, limit: int) -> Iterator[Piece]:
    """A move, whose source is contiguous, in pieces of at most `limit` bytes of the blob."""
    source, target = move.source, move.target.detach()
    dtype, cast = DTYPES[source.dtype], DTYPES[source.cast] if source.cast else None
    if move.region and move.in_rows:
        for part, start, shape, region in _rows(target, source.start, source.shape, move.region, dtype.itemsize, limit):
            yield Piece(part, ((start, prod(shape) * dtype.itemsize),), dtype, shape, region, cast)
        return
    spans = Spans(move.spans())
    for part in _portions(target, dtype.itemsize, limit):
        yield Piece(part, tuple(spans.take(part.numel() * dtype.itemsize)), dtype, tuple(part.shape), None, cast)


def _rows(
    target: torch.Tensor, start: int, shape: tuple[int, ...], region: Region, itemsize: int, limit: int
) -> Iterator[tuple[torch.Tensor, int, tuple[int, ...], Region]]:
    """Entries of the first axis, whole: the target's part, where they start, their shape, the region in it."""
    entry, position = prod(shape[1:]) * itemsize, 0
    step = min(_ROWS, limit) // entry
    for begin, end in region[0]:
        for row in range(begin, end, step or 1):
            at, part = start + row * entry, target[position : position + min(step or 1, end - row)]
            position += len(part)
            if step:
                yield part, at, (len(part), *shape[1:]), (((0, len(part)),), *region[1:])
            else:
                yield from _rows(part[0], at, shape[1:], region[1:], itemsize, limit)


def _portions(target: torch.Tensor, itemsize: int, limit: int) -> Iterator[torch.Tensor]:
    """Views that cover `target` in row-major order, each of at most `limit` bytes of the blob."""
    size = target.numel() * itemsize
    if size <= limit or target.dim() == 0:
        yield target
        return
    row = size // target.shape[0]
    if row > limit:
        for position in range(target.shape[0]):
            yield from _portions(target[position], itemsize, limit)
        return
    rows = limit // row
    for position in range(0, target.shape[0], rows):
        yield target[position : position + rows]
