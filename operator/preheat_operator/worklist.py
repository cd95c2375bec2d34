"""Keys that wait for work: each is worked on at most once at a time, bursts become one pass, failures are retried.

A key's rest between two passes grows with what a pass costs, so one busy key cannot take the whole process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

Key = TypeVar("Key", bound=Hashable)

_log = structlog.get_logger(__name__)
_REST_PER_COST = 4


class Worklist(Generic[Key]):
    """Calls `work` for every key added; what `work` raises is logged once and tried again after each of `delays`.

    `asked` says for how many seconds an error asks not to be tried again.
    """

    def __init__(
        self,
        work: Callable[[Key], Awaitable[None]],
        *,
        pause: float = 0.5,
        parallel: int = 8,
        delays: tuple[float, ...] = (1, 2, 5, 15, 60),
        asked: Callable[[Exception], float] = lambda _: 0,
    ) -> None:
        self._work = work
        self._asked = asked
        self._pause = pause
        self._delays = delays
        self._slots = asyncio.Semaphore(parallel)
        self._open = asyncio.Event()
        self._open.set()
        self._dirty: set[Key] = set()
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def add(self, key: Key) -> None:
        """Have the key worked on soon; a key that is being worked on is done again."""
        self._dirty.add(key)
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._serve(key), name=f"worklist {key}")

    def hold(self) -> None:
        """Begin nothing until `release`: what is added for several reasons meanwhile is one pass."""
        self._open.clear()

    def release(self) -> None:
        """Begin what is waiting."""
        self._open.set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def close(self) -> None:
        """Forget every key; work in progress is cancelled."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, key: Key) -> None:
        failures, rest = 0, self._pause
        try:
            while key in self._dirty:
                await asyncio.sleep(rest)
                await self._open.wait()
                async with self._slots:
                    self._dirty.discard(key)
                    began = time.monotonic()
                    error = await self._error(key, failures)
                rest = max(self._pause, _REST_PER_COST * (time.monotonic() - began))
                failures = failures + 1 if error else 0
                if error and failures <= len(self._delays):
                    rest = max(self._delays[failures - 1], self._asked(error))
                    self._dirty.add(key)
        finally:
            del self._tasks[key]

    async def _error(self, key: Key, failures: int) -> Exception | None:
        try:
            await self._work(key)
        except Exception as error:  # whatever happens to one key must not stop the others
            if failures == 0:
                _log.warning("will be tried again", key=key, error=repr(error))
            elif failures == len(self._delays):
                _log.error("given up until its next change or resync", key=key, error=repr(error), tries=failures + 1)
            return error
        return None
