"""What goes where: a tensor of the checkpoint, or a region of it, and the tensor of the model that receives it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from preheat.index import Tensor
from preheat.strategies.filling.slices import Region, Runs, gap_of, runs_of
from preheat.strategies.filling.tensors import DTYPES

#: Bytes between two parts that are read and dropped, in place of a second call of the kernel. A page: the disk reads no
#: more than without them.
GAP = 4096

#: The same between the rows of one tensor, of which this process holds some columns: they are read whole and cut, since
#: a call for each row takes longer than its neighbours' bytes, which other processes of the node need anyway.
ROW_GAP = 32 << 10


@dataclass(frozen=True)
class Move:
    """One tensor of the checkpoint, or a region of it, and the tensor of the model that receives it in that shape."""

    source: Tensor
    target: torch.Tensor
    region: Region | None = None  # None: all of the source

    @property
    def direct(self) -> bool:
        """Whether the target's memory is the checkpoint's bytes as they are."""
        source, target = self.source, self.target
        if source.cast or not source.contiguous or target.dtype != DTYPES[source.dtype]:
            return False
        plain = target.is_cpu and target.is_contiguous() and not (target.is_conj() or target.is_neg())
        return plain and (self._gap <= GAP or not self.in_rows)

    @property
    def in_rows(self) -> bool:
        """Whether the region is best cut out of whole rows, when it cannot be read straight into its target."""
        return 0 < self._gap <= ROW_GAP

    @property
    def _gap(self) -> int:
        """Bytes between one run of the region and the next, on average; 0 where there is one run."""
        if self.region is None:
            return 0
        return gap_of(self.source.shape, self.region) * DTYPES[self.source.dtype].itemsize

    @property
    def size(self) -> int:
        """Bytes of the checkpoint that are moved."""
        return self.target.numel() * DTYPES[self.source.dtype].itemsize

    def of_parts(self) -> Iterator[Move]:
        """Moves out of the boxes in which the source was saved, of what the target wants of each."""
        if not self.source.parts or self.source.space != self.source.shape:
            yield self
            return
        wanted = self.region or tuple(((0, length),) for length in self.source.shape)
        for part in self.source.parts:
            axes = [_meeting(*axis) for axis in zip(wanted, part.corner, part.end, strict=True)]
            target = self.target[tuple(held for _, held in axes)]
            stored = replace(part.tensor, cast=self.source.cast)
            region = tuple(runs for runs, _ in axes)
            whole = all(runs == ((0, length),) for runs, length in zip(region, stored.shape, strict=True))
            yield Move(stored, target, None if whole else region)

    def spans(self) -> Iterator[tuple[int, int]]:
        """Start in the blob and size of the bytes, in the order of the target's elements; the source is contiguous."""
        if self.region is None:
            yield self.source.start, self.size
            return
        itemsize = DTYPES[self.source.dtype].itemsize
        for place, count in runs_of(self.source.shape, self.region):
            yield self.source.start + place * itemsize, count * itemsize


def _meeting(wanted: Runs, begin: int, end: int) -> tuple[Runs, slice]:
    """What of the wanted indexes is in [begin, end): counted from `begin`, and where among the wanted ones it is."""
    found: list[tuple[int, int]] = []
    before = inside = 0
    for start, stop in wanted:
        before += max(0, min(stop, begin) - start)
        first, last = max(start, begin), min(stop, end)
        if first < last:
            found.append((first - begin, last - begin))
            inside += last - first
    return tuple(found), slice(before, before + inside)


def part_of(values: torch.Tensor, region: Region | None) -> torch.Tensor:
    """The region of a tensor."""
    for axis, runs in enumerate(region or ()):
        if runs != ((0, values.shape[axis]),):
            parts = [values.narrow(axis, start, stop - start) for start, stop in runs]
            values = torch.cat(parts, axis) if parts else values.narrow(axis, 0, 0)
    return values
