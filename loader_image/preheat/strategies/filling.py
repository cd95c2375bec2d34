"""Moves bytes from a blob into the existing tensors of a model: no second copy of the model, nothing is replaced.

A contiguous CPU tensor of the same dtype is read into directly, by several threads; all others, on whatever device,
through one small buffer. Parameters keep their identity, their hooks and `requires_grad`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch

from preheat.blob import Blob
from preheat.checks import Checks
from preheat.index import Tensor
from preheat.strategies.tensors import DTYPES, memory_of, read_into, read_tensor

#: Bytes of one read, and of the buffer between blob and device.
PORTION = 16 << 20

#: Tensors that one read may fill; the kernel takes at most 1024 buffers in a call.
_VIEWS = 512

# More threads than this gain nothing: memory bandwidth is the limit.
_THREADS = 8


@dataclass(frozen=True)
class Move:
    """One tensor of the checkpoint and the tensor of the model that receives it; the shapes are equal."""

    source: Tensor
    target: torch.Tensor

    @property
    def direct(self) -> bool:
        """Whether the target's memory is the checkpoint's bytes as they are."""
        target = self.target
        plain = target.device.type == "cpu" and target.is_contiguous() and not (target.is_conj() or target.is_neg())
        stored = self.source.contiguous and not self.source.cast
        return plain and stored and target.dtype == DTYPES[self.source.dtype]


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
    moves = [move for move in moves if move.source.elements]
    direct = sorted((m for m in moves if m.direct), key=lambda m: m.source.start)
    with torch.no_grad():
        _read_all(blob, list(plan_reads(direct)))
        for move in direct:
            torch.autograd.graph.increment_version(move.target)
        buffer = torch.empty(PORTION, dtype=torch.uint8, device="cpu") if len(direct) < len(moves) else None
        for move in moves:
            if buffer is not None and not move.direct:
                _fill_staged(blob, move, buffer)
    return sum(move.source.size for move in moves)


def plan_reads(moves: Iterable[Move]) -> Iterator[Read]:
    """Direct moves, sorted by start, as reads of about PORTION bytes: neighbours in the file share a read."""
    read: Read | None = None
    for move in moves:
        memory = memory_of(move.target)
        for offset in range(0, len(memory), PORTION):
            view, start = memory[offset : offset + PORTION], move.source.start + offset
            if read and (read.start + read.size != start or read.size >= PORTION or len(read.views) >= _VIEWS):
                yield read
                read = None
            read = read or Read(start, [])
            read.add(view)
    if read:
        yield read


def _read_all(blob: Blob, reads: list[Read]) -> None:
    workers = min(_THREADS, len(os.sched_getaffinity(0)), len(reads))
    if workers <= 1:
        for read in reads:
            read_into(blob, read.start, read.views)
        return
    with ThreadPoolExecutor(workers, "preheat-read") as threads:
        pending = [threads.submit(read_into, blob, read.start, read.views) for read in reads]
        done, _ = wait(pending, return_when=FIRST_EXCEPTION)
        threads.shutdown(cancel_futures=True)
        for future in done:
            future.result()


def _fill_staged(blob: Blob, move: Move, buffer: torch.Tensor) -> None:
    target, dtype = move.target.detach(), DTYPES[move.source.dtype]
    if not move.source.contiguous:
        target.copy_(read_tensor(blob, move.source, Checks(crc32=False)).to(target.device))
        return
    for part, offset in portions(target, dtype.itemsize, PORTION):
        staged = buffer[: part.numel() * dtype.itemsize]
        read_into(blob, move.source.start + offset, [memory_of(staged)])
        values = staged.view(dtype).view(part.shape)
        # Moved first, cast there: a cast on the way to a device would be done by the CPU.
        if values.dtype != part.dtype or move.source.cast:
            values = values.to(part.device).to(DTYPES[move.source.final_dtype])
        part.copy_(values)


def portions(target: torch.Tensor, itemsize: int, limit: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Views that cover `target` in row-major order, each of at most `limit` source bytes, with their byte offsets."""
    size = target.numel() * itemsize
    if size <= limit or target.dim() == 0:
        yield target, 0
        return
    row = size // target.shape[0]
    if row > limit:
        for position in range(target.shape[0]):
            for part, offset in portions(target[position], itemsize, limit):
                yield part, position * row + offset
        return
    rows = limit // row
    for position in range(0, target.shape[0], rows):
        yield target[position : position + rows], position * row
