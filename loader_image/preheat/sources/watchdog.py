"""Ends what takes too long, where a socket's timeout does not: headers that drip, or the text of a refusal.

One thread for all waits at once, not one for each: requests are many and short.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Watchdog:
    """Calls what it was given when the time is up; its thread starts with the first wait and is a daemon."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waits: dict[object, tuple[float, Callable[[], None]]] = {}
        self._next = float("inf")  # when the thread looks again
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, seconds: float, end: Callable[[], None]) -> Iterator[None]:
        """Call `end`, in another thread, when the block is not left within so many seconds."""
        key, due = object(), time.monotonic() + seconds
        with self._changed:
            self._waits[key] = due, end
            self._wake(due)
        try:
            yield
        finally:
            with self._changed:
                self._waits.pop(key, None)

    def _wake(self, due: float) -> None:
        # A wait that ends later than those before it, as most do, leaves the thread asleep.
        if self._thread is None or not self._thread.is_alive():  # not alive: this process is a fork of the first
            self._thread = threading.Thread(target=self._watch, name="preheat-watchdog", daemon=True)
            self._thread.start()
        elif due < self._next:
            self._changed.notify()

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._next = min((due for due, _ in self._waits.values()), default=float("inf"))
                pause = min(self._next - time.monotonic(), threading.TIMEOUT_MAX)
                if pause > 0:
                    self._changed.wait(pause)
                now = time.monotonic()
                late = [key for key, (due, _) in self._waits.items() if due <= now]
                ends = [self._waits.pop(key)[1] for key in late]
            for end in ends:
                end()


WATCHDOG = Watchdog()
