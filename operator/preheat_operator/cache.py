"""Every CheckpointPipeline of the cluster, so that admission asks no API server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx2

from preheat_operator import metrics
from preheat_operator.admission import Entry
from preheat_operator.api import GROUP, PLURAL, VERSION
from preheat_operator.follower import Follower, Key, Pace

PATH = f"apis/{GROUP}/{VERSION}/{PLURAL}"


class PipelineCache(Follower[Entry]):
    """The pipelines by namespace and name."""

    plural = "pipelines"

    def __init__(self, http: httpx2.AsyncClient, pace: Pace | None = None) -> None:
        super().__init__(http, PATH, pace)

    def keep(self, resource: Mapping[str, Any], known: Entry | None) -> Entry:
        """The entry; while the spec is the same, a status that changes costs nothing."""
        metadata = resource["metadata"]
        if known and all(known.resource["metadata"].get(k) == metadata.get(k) for k in ("uid", "generation")):
            return known.with_status(resource)
        return Entry(resource)

    def noticed(self, key: Key, before: Entry | None, after: Entry | None) -> None:
        """Of a pipeline that is gone nothing is counted any more."""
        if after is None:
            metrics.forget_pipeline(*key)

    async def find(self, namespace: str, name: str, patience: float) -> Entry | None:
        """The pipeline; one that was just created may arrive within `patience` seconds."""
        try:
            async with asyncio.timeout(patience):
                while (found := self.get(namespace, name)) is None:
                    await self._changed.wait()
        except TimeoutError:
            return None
        return found

    def names(self, namespace: str) -> list[str]:
        """The pipelines of a namespace."""
        return sorted(name for space, name in self._entries if space == namespace)
