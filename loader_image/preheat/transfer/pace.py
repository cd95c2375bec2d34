"""How a source is read: over how many connections, and how much each is asked for at once.

One connection to an object store brings some 90 MB/s, so many are worth having; on a fast network, or with few
processors, four bring all there is and more only stand in each other's way. So it begins with few and looks.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

#: A piece of fewer bytes takes longer to be asked for than to be sent.
LEAST_PIECE = 1 << 20
#: Threads that read, check and write while others wait for their connections.
FIRST = 4
#: Seconds for which a number of connections is looked at.
WINDOW = 0.1
#: More connections have to bring so much more.
GAIN = 1.15
#: Share of the processors that is no longer idle: what waits then does not wait for the network.
BUSY = 0.8
#: Seconds until more connections are tried again that brought nothing; doubles every time.
PAUSE = 2.0


@dataclass(frozen=True)
class Pace:
    """Threads at most, each with a connection and a buffer, and bytes per piece at most."""

    threads: int
    buffer: int
    piece: int

    def piece_of(self, total: int) -> int:
        """Bytes per piece of a transfer of `total`: of a small one there are pieces for all threads, too."""
        return min(self.piece, max(LEAST_PIECE, total // (2 * self.threads)))


LOCAL = Pace(threads=2, buffer=1024 * 1024, piece=32 << 20)
REMOTE = Pace(threads=32, buffer=256 * 1024, piece=16 << 20)


class Ramp:
    """How many threads there shall be: `size` grows up to `limit` for as long as that makes all of them faster.

    Safe in threads, and without a clock of its own.
    """

    def __init__(self, limit: int, processors: int) -> None:
        self.size = min(FIRST, limit)
        self._limit = limit
        self._processors = processors
        self._lock = threading.Lock()
        self._bytes = 0
        self._began: tuple[float, float] | None = None
        self._before: tuple[int, float] | None = None  # what there was before the last doubling: size and rate
        self._pause = PAUSE
        self._not_before = 0.0

    def passed(self, count: int, now: float, worked: float) -> None:
        """Another `count` bytes have passed, at `now`; the processors have worked for so many seconds so far."""
        with self._lock:
            self._bytes += count
            if self._began is None:
                self._start(now, worked)
            elif now - self._began[0] >= WINDOW:
                seconds = now - self._began[0]
                idle = worked - self._began[1] < BUSY * self._processors * seconds
                self._look(self._bytes / seconds, idle, now)
                self._start(now, worked)

    def _start(self, now: float, worked: float) -> None:
        self._bytes, self._began = 0, (now, worked)

    def _look(self, rate: float, idle: bool, now: float) -> None:
        if self._before and rate < self._before[1] * GAIN:
            self.size, self._before = self._before[0], None
            self._not_before, self._pause = now + self._pause, self._pause * 2
        elif now >= self._not_before:
            self._before = None
            if idle and self.size < self._limit:
                self._before = self.size, rate
                self.size = min(2 * self.size, self._limit)


def ramped(pace: Pace, advance: Callable[[int], None]) -> tuple[Callable[[], int], Callable[[int], None]]:
    """How many threads there shall be at any time, and what is to be told of bytes that pass instead of `advance`."""
    ramp = Ramp(pace.threads, len(os.sched_getaffinity(0)))

    def passed(count: int) -> None:
        ramp.passed(count, time.monotonic(), time.process_time())
        advance(count)

    return lambda: ramp.size, passed
