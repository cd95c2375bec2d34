"""A few slots of host memory in a ring: threads read lots into them while lots before are on their way to the device.

Memory is bounded by the ring, not by the model. A slot is filled again only after the device has passed the mark
behind its copies. Whatever fails, no thread and no copy is left when `pour` returns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from preheat.blob import Blob
from preheat.strategies.filling.lanes import Lane
from preheat.strategies.filling.reads import processors
from preheat.strategies.filling.staging import Lot

#: Threads that read, at most: so many keep a link of 50 GB/s busy.
READERS = 12

#: Slots beyond those that are being read into: on their way to the device.
_ON_THE_WAY = 4


class Slot:
    """Host memory for one lot at a time; it is taken when the first one comes."""

    def __init__(self, lane: Lane, size: int) -> None:
        self._lane, self._size = lane, size
        self._memory: torch.Tensor | None = None
        self._mark: Any = None

    def fill(self, blob: Blob, lot: Lot) -> torch.Tensor:
        """Read a lot, as soon as the one before has left; a thread's work."""
        if self._memory is None:
            self._memory = self._lane.memory(self._size)
        else:
            self._lane.wait(self._mark)
        for read in lot.reads(self._memory):
            read.execute(blob)
        return self._memory

    def send(self, lot: Lot, staged: torch.Tensor) -> None:
        """Begin to copy what was read."""
        self._lane.copy(lot, staged)
        self._mark = self._lane.record()


def pour(blob: Blob, lots: Iterable[Lot], lane: Lane, limit: int) -> None:
    """Move lots, each of at most `limit` bytes, to their targets; raises what the blob or the device raises."""
    readers = min(READERS, processors())
    free = deque(Slot(lane, limit) for _ in range(readers + _ON_THE_WAY))
    under_way: deque[tuple[Slot, Lot, Future[torch.Tensor]]] = deque()

    def send_next() -> None:
        slot, lot, reading = under_way.popleft()
        slot.send(lot, reading.result())
        free.append(slot)

    with ThreadPoolExecutor(readers, "preheat-read", lane.enter) as threads:
        try:
            for lot in lots:
                if not free:
                    send_next()
                slot = free.popleft()
                under_way.append((slot, lot, threads.submit(slot.fill, blob, lot)))
            while under_way:
                send_next()
        finally:
            threads.shutdown(cancel_futures=True)
            lane.wait(lane.record())
