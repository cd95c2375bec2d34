"""Ranges of a blob straight into memory: neighbours share a call of the kernel, several threads read at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from preheat.blob import Blob
from preheat.strategies.filling.moves import GAP, Move
from preheat.strategies.filling.tensors import memory_of, read_into

#: Bytes of one read.
PORTION = 16 << 20

#: Tensors that one read may fill; the kernel takes at most 1024 buffers in a call.
_VIEWS = 512

# More threads than this gain nothing: memory bandwidth is the limit.
_THREADS = 8

#: Reads that are planned before the first of them is done; more of them keep Python's garbage collector busy.
_AHEAD = 32


@dataclass
class Read:
    """Consecutive bytes from `start` into several memories."""

    start: int
    views: list[memoryview]
    size: int

    def execute(self, blob: Blob) -> None:
        """Fill the memories; raises what the blob raises."""
        read_into(blob, self.start, self.views)


def plan_reads(moves: Iterable[Move]) -> Iterator[Read]:
    """Direct moves, sorted by start, as reads of about PORTION bytes: neighbours in the file share a read."""
    return joined(_views_of_moves(moves))


def _views_of_moves(moves: Iterable[Move]) -> Iterator[tuple[int, memoryview]]:
    for move in moves:
        memory = memory_of(move.target)
        if move.region is None and len(memory) <= PORTION:  # of thousands of small tensors, each microsecond counts
            yield move.source.start, memory
        else:
            yield from views_of(move.spans(), memory)


def views_of(spans: Iterable[tuple[int, int]], memory: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Where in the blob the bytes of each next piece of `memory` are."""
    position = 0
    for start, size in spans:
        for offset in range(0, size, PORTION):
            end = position + min(PORTION, size - offset)
            yield start + offset, memory[position:end]
            position = end


def joined(views: Iterable[tuple[int, memoryview]]) -> Iterator[Read]:
    """Pieces of memory, each with where its bytes are, as few reads; short gaps are read along."""
    dropped = memoryview(bytearray(GAP))  # several threads write here, nobody reads
    read: Read | None = None
    for start, view in views:
        gap = start - (read.start + read.size) if read else 0
        if read and (not 0 <= gap <= GAP or read.size >= PORTION or len(read.views) >= _VIEWS):
            yield read
            read = None
        if read is None:
            read = Read(start, [view], len(view))
            continue
        if gap:
            read.views.append(dropped[:gap])
        read.views.append(view)
        read.size += gap + len(view)
    if read:
        yield read


def execute(blob: Blob, reads: Iterable[Read], size: int) -> None:
    """Read it all, `size` bytes; the plan is made meanwhile, because rows of many tensors make a long one."""
    workers = min(_THREADS, processors(), -(-size // PORTION))
    if workers <= 1:
        for read in reads:
            read.execute(blob)
        return
    pending: deque[Future[None]] = deque()
    with ThreadPoolExecutor(workers, "preheat-read") as threads:
        try:
            for read in reads:
                if len(pending) == _AHEAD:
                    pending.popleft().result()
                pending.append(threads.submit(read.execute, blob))
            while pending:
                pending.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)


def processors() -> int:
    """How many of them this process may use."""
    return len(os.sched_getaffinity(0))
