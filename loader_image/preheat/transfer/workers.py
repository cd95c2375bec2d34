"""A few threads that work off one list and stop together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

Item = TypeVar("Item")

MOST = 64  # threads at once
TICK = 0.02  # seconds until a change of their number shows


class _Crew(Generic[Item]):
    """Threads around an iterator. One that asks for an item when there are more than `size` says is sent home."""

    def __init__(
        self,
        items: Iterable[Item],
        size: Callable[[], int],
        worker: Callable[[Iterator[Item]], None],
        pool: ThreadPoolExecutor,
    ) -> None:
        self._items = iter(items)
        self._size = size
        self._worker = worker
        self._pool = pool
        self._lock = threading.Lock()
        self._ended = False
        self._active = 0
        self.running: deque[Future[None]] = deque()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with self._lock:
            if self._ended or self._active > self._size():
                self._active -= 1
                raise StopIteration
            try:
                return next(self._items)
            except StopIteration:
                self._ended = True
                raise

    def fill(self) -> None:
        """Start the threads that are missing."""
        with self._lock:
            while self._active < self._size() and not self._ended:
                self._active += 1
                self.running.append(self._pool.submit(self._run))

    def end(self) -> None:
        """Give no more items."""
        self._ended = True

    def _run(self) -> None:
        try:
            self._worker(self)
        except BaseException:
            self.end()
            raise


def work_off(
    items: Iterable[Item],
    size: int | Callable[[], int],
    worker: Callable[[Iterator[Item]], None],
    stop: Callable[[], None],
) -> None:
    """Run `worker` over a shared iterator of `items` in `size` threads, or in as many as it says at any time.

    The first exception, also one that a signal raises here, ends the iterator for all; `stop` must then interrupt what
    is in progress. It is raised when every thread has ended.
    """
    asked = size if callable(size) else lambda: size
    with ThreadPoolExecutor(MOST, thread_name_prefix="preheat") as pool:
        crew = _Crew(items, asked, worker, pool)
        try:
            crew.fill()
            while crew.running:
                if wait([crew.running[0]], TICK if callable(size) else None).done:
                    crew.running.popleft().result()
                else:
                    crew.fill()
        except BaseException:
            crew.end()
            stop()
            raise
