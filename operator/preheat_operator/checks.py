"""Checks of sources, as the API server knows them: begins those that are due, and looks how they ended.

What a check is and means is decided in `source_check`, what its bundle needs in `room`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx2
from lightkube import ApiError, AsyncClient

from preheat_operator import kube, room, source_check
from preheat_operator.api import Pipeline
from preheat_operator.foreign import Object
from preheat_operator.loader_resources import merged
from preheat_operator.nodes import Nodes
from preheat_operator.observation import PodReport
from preheat_operator.settings import Settings

#: Asked again, the API server would say the same.
_REFUSALS = (400, 403, 404, 405, 422)


@dataclass(frozen=True)
class Look:
    """What there is to say of a pipeline's check now."""

    ended: source_check.Checked | None = None  # how it ended, if that is news
    running: bool = False
    trouble: httpx2.HTTPError | None = None  # kept it from being begun or seen, and may pass by itself


class Checks:
    """The checks of one installation; without `settings.check` there are none."""

    def __init__(self, client: AsyncClient, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._settings = settings
        self._clock = clock
        self._nodes = Nodes(client)

    async def look(self, pipeline: Pipeline, status: Object, reports: Iterable[PodReport]) -> Look:
        """Begin a check that is due and was not begun; `status` is the pipeline's present one."""
        possible = self._settings.check and source_check.is_possible(pipeline)
        if not possible or not source_check.is_due(pipeline, status, reports, self._clock()):
            return Look()
        try:
            ended = await self._outcome(pipeline, status)
        except ApiError as error:
            if error.status.code not in _REFUSALS:
                return Look(running=True, trouble=error)
            ended = source_check.not_run(self._clock(), str(error))
        except httpx2.HTTPError as error:
            return Look(running=True, trouble=error)
        return Look(ended, running=ended is None)

    async def rooms(self, pipeline: Pipeline) -> list[room.Room]:
        """What bounds the volume that the bundle is made in."""
        if not self._settings.check:
            return []
        resources = merged(self._settings.loader_resources, (pipeline.spec.get("loader") or {}).get("resources"))
        memory = resources["limits"].get("memory")
        disk = await self._nodes.largest_disk() if room.on_disk(pipeline.spec) else None
        claim = await self._claimed(pipeline)
        return list(room.rooms(pipeline.spec, memory, claim_bytes=claim, disk_bytes=disk))

    async def _claimed(self, pipeline: Pipeline) -> int | None:
        """Bytes of the pipeline's claim; None when there is none, or when it is not known."""
        claim = (pipeline.spec.get("volume") or {}).get("persistentVolumeClaim")
        if not claim:
            return None
        where: dict[str, Any] = {"namespace": pipeline.namespace}
        try:
            return room.capacity(await self._client.get(kube.PersistentVolumeClaim, claim["claimName"], **where))
        except ApiError as error:
            if error.status.code in (403, 404):
                return None
            raise

    async def _outcome(self, pipeline: Pipeline, status: Object) -> source_check.Checked | None:
        """How the check that is due ended; one that was not begun is begun."""
        name, label = source_check.job_name(pipeline, status), {source_check.CHECK: pipeline.name}
        where: dict[str, Any] = {"namespace": pipeline.namespace, "labels": label}
        jobs = [each async for each in self._client.list(kube.Job, **where)]
        if any(each["metadata"]["name"] == name for each in jobs):
            pods = [each async for each in self._client.list(kube.Pod, **where)]
            return source_check.outcome(name, jobs, pods)
        try:
            await self._client.create(kube.Job(**source_check.wanted_job(pipeline, status, self._settings)))
        except ApiError as error:
            if error.status.reason != "AlreadyExists":  # begun meanwhile
                raise
        return None
