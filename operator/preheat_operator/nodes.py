"""What nodes have for emptyDirs. Only the largest counts: which node a pod gets is the scheduler's affair."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from lightkube import AsyncClient

from preheat_operator import kube, room

#: Nodes come and go; each is tens of kilobytes, so they are read in pages, and not for every pipeline.
_EVERY, _PAGE = 600.0, 50


class Nodes:
    """The cluster's nodes, as they were ten minutes ago or later."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._largest: int | None = None
        self._asked: float | None = None
        self._lock = asyncio.Lock()

    async def largest_disk(self) -> int | None:
        """Bytes that the roomiest node has for its pods; None when none tells, or nobody answers."""
        async with self._lock:
            if self._asked is None or time.monotonic() - self._asked >= _EVERY:
                self._asked = time.monotonic()
                with suppress(*kube.NO_ANSWER):  # a warning is not worth a status; what was known stays
                    self._largest = await self._ask()
        return self._largest

    async def _ask(self) -> int | None:
        disks = [room.disk(node) async for node in self._client.list(kube.Node, chunk_size=_PAGE)]
        return max((size for size in disks if size is not None), default=None)
