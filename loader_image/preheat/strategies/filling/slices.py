"""Which bytes of a stored tensor are this process's part of it, when a tensor is spread over a mesh of processes.

Pure: no torch, no bytes. A region says per axis which indexes a process holds; its runs are the bytes to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, product
from math import prod

from preheat.index import row_major

#: Indexes [start, stop) in ascending order.
Runs = tuple[tuple[int, int], ...]

#: Runs for every axis of a tensor.
Region = tuple[Runs, ...]


@dataclass(frozen=True)
class Cut:
    """One axis is cut as `torch.chunk` cuts it, in `parts`, of which a process has number `index`.

    With `blocks` the axis is first cut in so many blocks, and the process has its part of each.
    """

    axis: int
    parts: int
    index: int
    blocks: int = 1


def region_of(shape: Sequence[int], cuts: Iterable[Cut]) -> Region:
    """What is left of a tensor of `shape` after the cuts, each of what the one before has left."""
    axes: list[Runs] = [((0, length),) if length else () for length in shape]
    for cut in cuts:
        held = axes[cut.axis]
        axes[cut.axis] = _inside(held, _taken(_length(held), cut))
    return tuple(axes)


def shape_of(region: Region) -> tuple[int, ...]:
    """Lengths of the axes of a region."""
    return tuple(map(_length, region))


def runs_of(shape: Sequence[int], region: Region) -> Iterator[tuple[int, int]]:
    """Place and number of consecutive elements of a row-major tensor, in the row-major order of the region."""
    if not prod(shape_of(region)):
        return
    inner = _cut_axes(shape, region)
    if not inner:
        yield 0, prod(shape)
        return
    strides, size = row_major(tuple(shape)), prod(shape[inner:])
    indexes = (chain.from_iterable(range(*run) for run in runs) for runs in region[: inner - 1])
    for place in product(*indexes):
        base = sum(index * stride for index, stride in zip(place, strides, strict=False))
        for start, stop in region[inner - 1]:
            yield base + start * size, (stop - start) * size


def boxes_of(region: Region) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """The boxes that a region consists of: where each begins in the whole, and which part of what is held it is."""
    axes: list[list[tuple[int, slice]]] = []
    for runs in region:
        ends = list(accumulate(stop - start for start, stop in runs))
        axes.append([(start, slice(end - (stop - start), end)) for (start, stop), end in zip(runs, ends, strict=True)])
    for box in product(*axes):
        yield tuple(start for start, _ in box), tuple(held for _, held in box)


def gap_of(shape: Sequence[int], region: Region) -> int:
    """Elements that lie between one run and the next, on average; 0 where there is one run, or none."""
    held, inner = shape_of(region), _cut_axes(shape, region)
    if not inner or not prod(held) or prod(held[: inner - 1]) * len(region[inner - 1]) == 1:
        return 0
    return (shape[inner - 1] - held[inner - 1]) * prod(shape[inner:]) // len(region[inner - 1])


class Spans:
    """Spans of bytes, in an order, to be taken piece by piece."""

    def __init__(self, spans: Iterable[tuple[int, int]]) -> None:
        self._spans = iter(spans)
        self._rest = (0, 0)

    def take(self, size: int) -> Iterator[tuple[int, int]]:
        """Start and size of the spans that make up the next `size` bytes; fewer at the end."""
        while size:
            start, length = self._rest if self._rest[1] else next(self._spans, (0, 0))
            if not length:
                return
            taken = min(length, size)
            self._rest = start + taken, length - taken
            size -= taken
            yield start, taken


def _cut_axes(shape: Sequence[int], region: Region) -> int:
    """Number of axes up to the last one that is not held whole."""
    inner = len(shape)
    while inner and region[inner - 1] == ((0, shape[inner - 1]),):
        inner -= 1
    return inner


def _length(runs: Runs) -> int:
    return sum(stop - start for start, stop in runs)


def _taken(length: int, cut: Cut) -> Iterator[tuple[int, int]]:
    block = -(-length // cut.blocks)
    for start in range(0, length, block or 1):
        here = min(block, length - start)
        part = -(-here // cut.parts)
        first, last = min(part * cut.index, here), min(part * (cut.index + 1), here)
        if first < last:
            yield start + first, start + last


def _inside(held: Runs, taken: Iterable[tuple[int, int]]) -> Runs:
    """`taken` counts the indexes that are held; the answer counts those of the whole axis, neighbours joined."""
    found: list[tuple[int, int]] = []
    for first, last in taken:
        passed = 0
        for start, stop in held:
            begin, end = start + max(first - passed, 0), start + min(last - passed, stop - start)
            if begin < end:
                joins = found and found[-1][1] == begin
                found[-1:] = [(found[-1][0], end)] if joins else [*found[-1:], (begin, end)]
            passed += stop - start
    return tuple(found)
