"""How a source is read: over how many connections, and how much each is asked for at once.

One connection to an object store brings some 90 MB/s, so many are worth having; where the processors or the network are
the limit, more only stand in each other's way. So a transfer begins with a few and looks what more of them bring.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from preheat.errors import CheckpointConfigError

#: A piece of fewer bytes takes longer to be asked for than to be sent.
LEAST_PIECE = 1 << 20
#: Connections at the beginning: where reading is all work, as with TLS, more only wait for the interpreter's lock.
FIRST = 2
#: Threads that have buffers of full length; those of more are shorter, so that all take no more memory.
LONG = 8
#: Seconds for which the rate is measured.
WINDOW = 0.05
#: Twice as many connections have to bring so much more within so many seconds, or they are given up again.
GAIN = 1.4
TRIAL = 0.6
#: Seconds until more are tried after some that brought nothing.
PAUSE = 10.0
#: Bytes a second of each of LONG connections or more with which others are not worth a trial: a store that limits
#: connections gives less, and so do far ones.
ENOUGH = 100e6
#: Share of the processors that work, above which nothing waits for the network.
BUSY = 0.8
#: The variable with the bytes a second that are read of a source at most.
BANDWIDTH = "PREHEAT_BANDWIDTH"
LEAST_BANDWIDTH = 1_000_000


@dataclass(frozen=True)
class Pace:
    """Threads at most, each with a connection and a buffer of bytes at most, and bytes per piece at most."""

    threads: int
    buffer: int
    piece: int

    def buffer_of(self, threads: int) -> int:
        """Bytes of one thread's buffer where there are so many: long reads cost least, and all of them stay small."""
        return self.buffer if threads <= LONG else self.buffer * LONG // threads

    def piece_of(self, total: int) -> int:
        """Bytes per piece of a transfer of `total`: of a small one there are some for all threads, and few are lost."""
        return min(self.piece, max(LEAST_PIECE, total // (4 * self.threads)))


LOCAL = Pace(threads=2, buffer=1024 * 1024, piece=32 << 20)
REMOTE = Pace(threads=32, buffer=512 * 1024, piece=16 << 20)


class Ramp:
    """How many threads there shall be: `size` grows up to `limit` for as long as that makes all of them faster.

    Safe in threads, and without a clock of its own.
    """

    def __init__(self, limit: int, processors: float) -> None:
        self.size = min(FIRST, limit)
        self._limit = limit
        self._processors = processors
        self._lock = threading.Lock()
        self._bytes = 0
        self._began: tuple[float, float] | None = None  # the window: now, and what the processors had worked
        self._trial: tuple[int, float, float] | None = None  # size and rate before it, and its end
        self._next = 0.0  # when more are tried

    def passed(self, count: int, now: float, worked: Callable[[], float]) -> None:
        """Another `count` bytes have passed, at `now`; `worked` says for how many seconds the processors have so far.

        It is a call of the kernel, and asked once for each window.
        """
        with self._lock:
            self._bytes += count
            if self._began is None:
                self._began = now, worked()
                return
            seconds = now - self._began[0]
            if seconds >= WINDOW:
                spent = worked()
                busy = spent - self._began[1] >= BUSY * self._processors * seconds
                self._look(self._bytes / seconds, now, busy)
                self._bytes, self._began = 0, (now, spent)

    def _look(self, rate: float, now: float, busy: bool) -> None:
        if self._trial:
            before, least, end = self._trial
            if rate >= GAIN * least:
                self._trial = None
            elif now >= end:
                self.size, self._trial, self._next = before, None, now + PAUSE
        enough = self.size >= LONG and rate >= ENOUGH * self.size
        if not (self._trial or busy or enough or self.size == self._limit or now < self._next):
            self._trial = self.size, rate, now + TRIAL
            self.size = min(2 * self.size, self._limit)


class Bucket:
    """Lets no more than `rate` bytes a second pass, in the mean; what was not used is not saved up. Safe in threads."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._full = 0.0  # when all that was taken has passed

    def take(self, count: int, now: float) -> float:
        """Seconds to wait, from `now`, after `count` bytes."""
        with self._lock:
            self._full = max(self._full, now) + count / self._rate
            return self._full - now


def ramped(pace: Pace, advance: Callable[[int], None]) -> tuple[Callable[[], int], Callable[[int], None]]:
    """How many threads there shall be at any time, and what is to be told of bytes that pass instead of `advance`.

    It waits where PREHEAT_BANDWIDTH says so; raises CheckpointConfigError when that is no size, or too small a one.
    """
    ramp, rate = Ramp(pace.threads, processors()), _bandwidth()
    bucket = Bucket(rate) if rate else None

    def passed(count: int) -> None:
        now = time.monotonic()
        ramp.passed(count, now, time.process_time)
        advance(count)
        if bucket:
            time.sleep(bucket.take(count, now))

    return lambda: ramp.size, passed


@contextmanager
def bounded(rate: float | None) -> Iterator[None]:
    """Within it this process reads of sources no more than so many bytes a second; None: as the environment says."""
    before = os.environ.get(BANDWIDTH)
    if rate:
        os.environ[BANDWIDTH] = str(int(rate))
    try:
        yield
    finally:
        os.environ.pop(BANDWIDTH, None)
        if before is not None:
            os.environ[BANDWIDTH] = before


def processors(limits: Path = Path("/sys/fs/cgroup/cpu.max")) -> float:
    """How many this process may use; a container's limit on Linux counts, and may be a fraction."""
    count: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no container, or one without a limit: "max 100000"
        quota, period = map(int, limits.read_text().split())
        count = min(count, quota / period)
    return count


def _bandwidth() -> int | None:
    text = os.environ.get(BANDWIDTH)
    if not text:
        return None
    from preheat.amounts import bytes_of

    if (rate := bytes_of(text)) < LEAST_BANDWIDTH:
        raise CheckpointConfigError(
            f"{BANDWIDTH} is {text!r:.40}, less than {LEAST_BANDWIDTH} bytes a second",
            remedy="Connections would be idle for so long that servers close them",
        )
    return rate
