"""A few threads that work off one list and stop together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")


class _Shared(Generic[Item]):
    """An iterator that several threads may ask at once."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self._lock = threading.Lock()
        self._ended = False

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with self._lock:
            if self._ended:
                raise StopIteration
            return next(self._items)

    def end(self) -> None:
        """Give no more items."""
        self._ended = True


def work_off(
    items: Iterable[Item], count: int, worker: Callable[[Iterator[Item]], None], stop: Callable[[], None]
) -> None:
    """Run `worker` in `count` threads over a shared iterator of `items`.

    The first exception, also one that a signal raises here, ends the iterator for all; `stop` must then interrupt what
    is in progress. It is raised when every thread has ended.
    """
    shared = _Shared(items)
    with ThreadPoolExecutor(count, thread_name_prefix="preheat") as pool:
        try:
            futures = [pool.submit(_run, worker, shared) for _ in range(count)]
            for future in futures:
                future.result()
        except BaseException:
            shared.end()
            stop()
            raise


def _run(worker: Callable[[Iterator[Item]], None], shared: _Shared[Item]) -> None:
    try:
        worker(shared)
    except BaseException:
        shared.end()
        raise
