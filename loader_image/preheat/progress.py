"""How far a transfer is: said in lines of a log, and told to whoever asks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from preheat.amounts import size_text

INTERVAL = 5.0  # seconds between lines
#: Seconds over which the rate is measured, at least; at most twice as many.
WINDOW = 5.0

#: Until it is known what there is to do; while another makes the same bundle; while bytes pass; while the bundle is
#: made durable.
Phase = Literal["reading", "waiting", "transferring", "finishing"]


class Progress(Protocol):
    """Is told how much will pass, and then how much has; `advance` is called from several threads."""

    def wait(self) -> None:
        """Another does the work; nothing will pass until it is done, or has given up."""
        ...

    def start(self, total: int) -> None:
        """The transfer begins and will pass `total` bytes of the source."""
        ...

    def advance(self, count: int) -> None:
        """Another `count` bytes have passed."""
        ...

    def finish(self) -> None:
        """The transfer has ended, well or not."""
        ...


@contextmanager
def watched(progress: Progress | None, total: int) -> Iterator[Callable[[int], None]]:
    """Tell `progress`, if there is one, of a transfer of `total` bytes; yields what is told of bytes that pass."""
    if not progress:
        yield lambda count: None
        return
    progress.start(total)
    try:
        yield progress.advance
    finally:
        progress.finish()


class LogProgress:
    """A line with bytes, share, rate and time left, every few seconds; and the same at any time, as numbers."""

    def __init__(self, log: logging.Logger, interval: float = INTERVAL) -> None:
        self._log = log
        self._interval = interval
        self._lock = threading.Lock()
        self.start(0)
        self._phase: Phase = "reading"

    def wait(self) -> None:
        """Remember it: the log has a line of it already."""
        self._phase = "waiting"

    def start(self, total: int) -> None:
        """Begin to count."""
        with self._lock:
            self._phase = "transferring"
            self._total, self._done = total, 0
            self._moved = self._said = time.monotonic()
            self._marks = ((self._moved, 0), (self._moved, 0))  # the rate is that since the older one

    def advance(self, count: int) -> None:
        """Count, and say a line when it is time."""
        now = time.monotonic()
        with self._lock:
            self._done += count
            self._moved = now
            if now - self._marks[1][0] >= WINDOW:
                self._marks = self._marks[1], (now, self._done)
            if now - self._said < self._interval:
                return
            self._said = now
            rate = self._rate(now)
        left = max(self._total - self._done, 0) / max(rate, 1)
        share = 100 * self._done // max(self._total, 1)
        self._log.info(
            "%s of %s (%d %%), %s/s, %.0f s left",
            size_text(self._done), size_text(self._total), share, size_text(rate), left,
        )  # fmt: skip

    def finish(self) -> None:
        """Say nothing: who asked for the transfer knows its outcome."""
        with self._lock:
            self._phase = "finishing"

    def to_json(self) -> dict[str, Any]:
        """Where it stands now, and for how many seconds nothing has passed."""
        now = time.monotonic()
        with self._lock:
            return {
                "phase": self._phase,
                "bytesDone": self._done,
                "bytesTotal": self._total,
                "bytesPerSecond": int(self._rate(now)),
                "idleSeconds": round(now - self._moved, 1),
            }

    def _rate(self, now: float) -> float:
        since, done = self._marks[0]
        return (self._done - done) / max(now - since, 0.001)
