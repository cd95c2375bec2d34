"""Moves bytes from a blob into the existing tensors of a model: no second copy of the model, nothing is replaced.

A contiguous CPU tensor of the same dtype is read into directly, by several threads; all others, on whatever device,
through one small buffer. Parameters keep their identity, their hooks and `requires_grad`. Of a tensor that is spread
over several processes only the bytes of this process's part are read.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod

import torch

from preheat.blob import Blob
from preheat.checks import Checks
from preheat.index import Tensor
from preheat.strategies.slices import Region, Spans, gap_of, runs_of
from preheat.strategies.tensors import DTYPES, memory_of, read_into, read_tensor

#: Bytes of one read, and of the buffer between blob and device.
PORTION = 16 << 20

#: Tensors that one read may fill; the kernel takes at most 1024 buffers in a call.
_VIEWS = 512

#: Bytes between two parts that are read and dropped, in place of a second call of the kernel. A page: the disk reads no
#: more than without them.
_GAP = 4096

#: The same between the rows of one tensor, of which this process holds some columns: they are read whole and cut, since
#: a call for each row takes longer than its neighbours' bytes, which other processes of the node need anyway.
_ROW_GAP = 32 << 10

#: Bytes of such rows that are read at a time: they are cut while the processor has them at hand.
_ROWS = 1 << 20

# More threads than this gain nothing: memory bandwidth is the limit.
_THREADS = 8

#: Reads that are planned before the first of them is done.
_AHEAD = 256


@dataclass(frozen=True)
class Move:
    """One tensor of the checkpoint, or a region of it, and the tensor of the model that receives it in that shape."""

    source: Tensor
    target: torch.Tensor
    region: Region | None = None  # None: all of the source

    @property
    def direct(self) -> bool:
        """Whether the target's memory is the checkpoint's bytes as they are."""
        target = self.target
        plain = target.device.type == "cpu" and target.is_contiguous() and not (target.is_conj() or target.is_neg())
        stored = self.source.contiguous and not self.source.cast
        return plain and stored and not self.scattered and target.dtype == DTYPES[self.source.dtype]

    @property
    def scattered(self) -> bool:
        """Whether the region is best cut out of whole rows."""
        if self.region is None:
            return False
        return _GAP < gap_of(self.source.shape, self.region) * DTYPES[self.source.dtype].itemsize <= _ROW_GAP

    @property
    def size(self) -> int:
        """Bytes of the checkpoint that are moved."""
        return self.target.numel() * DTYPES[self.source.dtype].itemsize

    def spans(self) -> Iterator[tuple[int, int]]:
        """Start in the blob and size of the bytes, in the order of the target's elements; the source is contiguous."""
        if self.region is None:
            yield self.source.start, self.source.size
            return
        itemsize = DTYPES[self.source.dtype].itemsize
        for place, count in runs_of(self.source.shape, self.region):
            yield self.source.start + place * itemsize, count * itemsize


@dataclass
class Read:
    """Consecutive bytes from `start` into several memories."""

    start: int
    views: list[memoryview]
    size: int = 0

    def add(self, view: memoryview) -> None:
        """Go on with `view`."""
        self.views.append(view)
        self.size += len(view)


def fill(blob: Blob, moves: Iterable[Move]) -> int:
    """Execute the moves and return the bytes read; raises what the blob raises, with the model half filled."""
    moves = [move for move in moves if move.target.numel()]
    direct = sorted((m for m in moves if m.direct), key=lambda m: m.source.start)
    with torch.no_grad():
        _read_all(blob, plan_reads(direct), sum(move.size for move in direct))
        for move in direct:
            torch.autograd.graph.increment_version(move.target)
        buffer = torch.empty(PORTION, dtype=torch.uint8, device="cpu") if len(direct) < len(moves) else None
        for move in moves:
            if buffer is not None and not move.direct:
                _fill_staged(blob, move, buffer)
    return sum(move.size for move in moves)


def plan_reads(moves: Iterable[Move]) -> Iterator[Read]:
    """Direct moves, sorted by start, as reads of about PORTION bytes: neighbours in the file share a read."""
    yield from _joined(view for move in moves for view in _views(move.spans(), memory_of(move.target)))


def _views(spans: Iterable[tuple[int, int]], memory: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Where in the blob the bytes of each next piece of `memory` are."""
    position = 0
    for start, size in spans:
        for offset in range(0, size, PORTION):
            view = memory[position : position + min(PORTION, size - offset)]
            yield start + offset, view
            position += len(view)


def _joined(views: Iterable[tuple[int, memoryview]]) -> Iterator[Read]:
    dropped = memoryview(bytearray(_GAP))  # several threads write here, nobody reads
    read: Read | None = None
    for start, view in views:
        gap = start - (read.start + read.size) if read else 0
        if read and (not 0 <= gap <= _GAP or read.size >= PORTION or len(read.views) >= _VIEWS):
            yield read
            read = None
        if read and gap:
            read.add(dropped[:gap])
        read = read or Read(start, [])
        read.add(view)
    if read:
        yield read


def _read_all(blob: Blob, reads: Iterable[Read], size: int) -> None:
    """The plan is made while it is executed: rows of many tensors would make a long one."""
    workers = min(_THREADS, len(os.sched_getaffinity(0)), -(-size // PORTION))
    if workers <= 1:
        for read in reads:
            read_into(blob, read.start, read.views)
        return
    pending: deque[Future[None]] = deque()
    with ThreadPoolExecutor(workers, "preheat-read") as threads:
        try:
            for read in reads:
                if len(pending) == _AHEAD:
                    pending.popleft().result()
                pending.append(threads.submit(read_into, blob, read.start, read.views))
            while pending:
                pending.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)


def _fill_staged(blob: Blob, move: Move, buffer: torch.Tensor) -> None:
    target = move.target.detach()
    if not move.source.contiguous:
        values = read_tensor(blob, move.source, Checks(crc32=False))
        target.copy_(part_of(values, move.region).to(target.device))
        return
    for part, values in _staged(blob, move, target, buffer):
        # Moved first, cast there: a cast on the way to a device would be done by the CPU.
        if values.dtype != part.dtype or move.source.cast:
            values = values.to(part.device).to(DTYPES[move.source.final_dtype])
        part.copy_(values)


def _staged(
    blob: Blob, move: Move, target: torch.Tensor, buffer: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Parts of the target and their values, in `buffer` until the next ones are asked for."""
    dtype = DTYPES[move.source.dtype]
    if move.scattered and move.region:
        yield from _rows(blob, move.source.start, move.source.shape, move.region, target, buffer[:_ROWS].view(dtype))
        return
    spans = Spans(move.spans())
    for part in portions(target, dtype.itemsize, PORTION):
        staged = buffer[: part.numel() * dtype.itemsize]
        for read in _joined(_views(spans.take(len(staged)), memory_of(staged))):
            read_into(blob, read.start, read.views)
        yield part, staged.view(dtype).view(part.shape)


def _rows(
    blob: Blob, start: int, shape: tuple[int, ...], region: Region, target: torch.Tensor, buffer: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """As `_staged`, cut out of entries of the first axis that are read whole; `start` is where the tensor begins."""
    size, position = prod(shape[1:]), 0
    for begin, end in region[0]:
        step = len(buffer) // size
        for entry in range(begin, end, step or 1):
            at = start + entry * size * buffer.itemsize
            if not step:
                yield from _rows(blob, at, shape[1:], region[1:], target[position], buffer)
                position += 1
                continue
            count = min(step, end - entry)
            staged = buffer[: count * size]
            read_into(blob, at, [memory_of(staged)])
            part = target[position : position + count]
            yield part, part_of(staged.view(count, *shape[1:]), (((0, count),), *region[1:]))
            position += count


def part_of(values: torch.Tensor, region: Region | None) -> torch.Tensor:
    """The region of a tensor."""
    for axis, runs in enumerate(region or ()):
        if runs != ((0, values.shape[axis]),):
            parts = [values.narrow(axis, start, stop - start) for start, stop in runs]
            values = torch.cat(parts, axis) if parts else values.narrow(axis, 0, 0)
    return values


def portions(target: torch.Tensor, itemsize: int, limit: int) -> Iterator[torch.Tensor]:
    """Views that cover `target` in row-major order, each of at most `limit` source bytes."""
    size = target.numel() * itemsize
    if size <= limit or target.dim() == 0:
        yield target
        return
    row = size // target.shape[0]
    if row > limit:
        for position in range(target.shape[0]):
            yield from portions(target[position], itemsize, limit)
        return
    rows = limit // row
    for position in range(0, target.shape[0], rows):
        yield target[position : position + rows]
