"""How far a transfer is, said in lines of a log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from preheat.bundle.storage import megabytes

INTERVAL = 5.0  # seconds between lines


class Progress(Protocol):
    """Is told how much will pass, and then how much has; `advance` is called from several threads."""

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
    """A line with bytes, share, rate and time left, every few seconds."""

    def __init__(self, log: logging.Logger, interval: float = INTERVAL) -> None:
        self._log = log
        self._interval = interval
        self._lock = threading.Lock()
        self.start(0)

    def start(self, total: int) -> None:
        """Begin to count."""
        self._total, self._done = total, 0
        self._began = self._said = time.monotonic()

    def advance(self, count: int) -> None:
        """Count, and say a line when it is time."""
        now = time.monotonic()
        with self._lock:
            self._done += count
            if now - self._said < self._interval:
                return
            self._said = now
        rate = self._done / max(now - self._began, 0.001)
        left = max(self._total - self._done, 0) / max(rate, 1)
        share = 100 * self._done // max(self._total, 1)
        self._log.info(
            "%s of %s (%d %%), %s/s, %.0f s left",
            megabytes(self._done), megabytes(self._total), share, megabytes(rate), left,
        )  # fmt: skip

    def finish(self) -> None:
        """Say nothing: who asked for the transfer knows its outcome."""
