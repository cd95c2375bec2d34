"""Keeps the status of every CheckpointPipeline true to its pods. Level-based: any event only says which one to look at.

It stores nothing in the objects but the status: no annotation, no finalizer, so deleting never waits for the operator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx2
import kopf
import structlog
from lightkube import ALL_NS, ApiError, AsyncClient

from preheat.errors import CheckpointConfigError
from preheat_operator import api, health, kube, metrics, source_check
from preheat_operator.announcement import Announcement
from preheat_operator.checks import Checks, Look
from preheat_operator.counting import Counting
from preheat_operator.events import announcements
from preheat_operator.failed_pods import FailedPods, Untold
from preheat_operator.foreign import Object
from preheat_operator.inquiry import Inquiry, askable
from preheat_operator.labelled_pods import LabelledPods
from preheat_operator.loader_run import REASONS
from preheat_operator.observation import PodReport, observe
from preheat_operator.progress import LOADER_QUESTION, Loaders, Progress
from preheat_operator.recipe import described, recipe_of
from preheat_operator.recorder import COMPONENT, Recorder
from preheat_operator.settings import Settings
from preheat_operator.status import differs, wanted_status
from preheat_operator.upload_account import UPLOAD_QUESTION, Account
from preheat_operator.uploads import askable_uploads, uploads_of
from preheat_operator.worklist import Worklist

RESYNC_SECONDS = 300
_CHUNK = 500
_PATIENCE = (1, 2, 5, 10, 20)  # seconds between two tries to list the pipelines

Key = tuple[str, str]  # namespace and name of a pipeline

_log = structlog.get_logger(__name__)


class EndedError(RuntimeError):
    """The process cannot go on and is to be started anew; the text says why."""


class Controller:
    """Looks at one pipeline at a time and writes what it finds; `changed` says which to look at."""

    def __init__(
        self,
        client: AsyncClient,
        settings: Settings,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.worklist: Worklist[Key] = Worklist(self.refresh, asked=kube.asked_to_wait)
        self._client = client
        self._settings = settings
        self._clock = clock
        self._checks = Checks(client, settings, clock)
        self._recorder = Recorder(client)
        self.inquiry: Inquiry[Key, Progress] = Inquiry(LOADER_QUESTION, self.worklist.add)
        self.uploads: Inquiry[Key, Account] = Inquiry(UPLOAD_QUESTION, self.worklist.add)
        self._counting = Counting()
        self._seen: dict[Key, str] = {}  # resourceVersion that was looked at, or written, last
        self._untold = Untold()
        self._obstacle: str | None = "the pipelines have not been listed yet"
        self.listed = asyncio.Event()  # all of them, once
        self._beat = time.monotonic()

    def changed(self, namespace: str, name: str, version: str | None = None) -> None:
        """Look at this pipeline soon, unless `version` is what was looked at or written here last."""
        key = (namespace, name)
        if version is None or self._seen.get(key) != version:
            self.worklist.add(key)

    def fell(self, key: Key, report: PodReport) -> None:
        """The training of a pod died; when its pipeline is looked at the pod may be gone."""
        self._untold.add(key, report)
        self.worklist.add(key)

    async def refresh(self, key: Key) -> None:
        """Bring one pipeline's status, Events and metrics up to date with its pods, all read afresh."""
        fallen, pipeline = self._untold.of(key), await self._pipeline(key)
        if pipeline is None:
            self._counting.gone(key)
            self._ask(key, ())
            self._seen.pop(key, None)
            self._untold.told(key, fallen)
            return
        namespace, name = key
        parsed, problem = _parsed(pipeline)
        pods = self._client.list(kube.Pod, namespace=namespace, labels={api.LABEL: name}, chunk_size=_CHUNK)
        # A name too long for a label is a problem of the pipeline, and no pod can carry it.
        reports = [observe(pod) async for pod in pods] if len(name) <= api.NAME_LENGTH else []
        now, check = self._clock(), Look()
        if parsed:
            check = await self._checks.look(parsed, pipeline.get("status") or {}, reports)
        self._ask(key, reports if self._settings.progress else ())
        uploads = uploads_of(pipeline, reports, self.uploads.last(key), now)
        more: dict[str, Any] = {
            "checking": check.running,
            "rooms": await self._checks.rooms(parsed) if parsed else (),
            "fallen": fallen,
            "loaders": Loaders.of(reports, self.inquiry.last(key), self._settings.stall_seconds),
            "uploads": uploads,
        }
        status = wanted_status(pipeline, reports, now, problem, check.ended, **more)
        if parsed and self._settings.injection == "policy":
            pin = source_check.pin_of({**pipeline, "status": status})
            known = parsed.knowing({**pipeline, "status": status})
            status["injection"] = recipe_of(known, self._settings, pin).to_status()
        seen = key in self._seen
        if changed := differs(status, pipeline.get("status")):
            if not await self._write(key, pipeline, status):
                return
        else:
            self._seen[key] = str(pipeline["metadata"].get("resourceVersion"))
        self._untold.told(key, fallen)
        if check.ended and check.ended.seconds is not None:
            metrics.CHECK_SECONDS.labels(check.ended.result).observe(check.ended.seconds)
        self._counting.pods(key, reports, uploads.senders if uploads else ())
        for announcement in announcements({**pipeline, "status": status}, reports, now):
            if seen or changed or not announcement.preceded(now):
                await self._tell(announcement, now)
            else:  # the status was right already: another process has told of it
                self._recorder.remember(announcement)
        if check.trouble:
            raise check.trouble

    async def resync(self, every: float = RESYNC_SECONDS, patience: Sequence[float] = _PATIENCE) -> None:
        """Look at every pipeline now and then, so that no missed event lasts; what keeps it from that is waited out."""
        failures = 0
        while True:
            self._beat = time.monotonic()
            gone = set(self._seen)  # kopf does not tell of one that was deleted while nobody watched
            try:
                async for pipeline in self._client.list(kube.CheckpointPipeline, namespace=ALL_NS, chunk_size=_CHUNK):
                    key = pipeline["metadata"]["namespace"], pipeline["metadata"]["name"]
                    gone.discard(key)
                    self.changed(*key)
                for key in gone:
                    self.changed(*key)
            except kube.NO_ANSWER as error:
                self._obstacle = _obstacle(error)
                delay = patience[min(failures, len(patience) - 1)]
                failures += 1
                _log.warning("pipelines not listed", why=self._obstacle, again_in_s=delay)
            else:
                self._obstacle, failures, delay = None, 0, every
                self.listed.set()
            await asyncio.sleep(delay)

    def not_alive(self) -> str | None:
        """Why the process should be restarted: its loop stands still."""
        silent = time.monotonic() - self._beat
        return f"no resync for {silent:.0f} s" if silent > 3 * RESYNC_SECONDS else None

    def not_ready(self) -> str | None:
        """Why nothing can be expected of it now."""
        return self._obstacle

    async def _pipeline(self, key: Key) -> Object | None:
        try:
            return await self._client.get(kube.CheckpointPipeline, key[1], namespace=key[0])
        except httpx2.HTTPStatusError as error:
            if error.response.status_code == 404:
                return None
            raise

    async def _write(self, key: Key, pipeline: Object, status: dict[str, Any]) -> bool:
        """Replace the status at the version that was read: who read something older is refused and looks again."""
        wanted: Any = kube.CheckpointPipeline.Status(**{**pipeline, "status": status})
        try:
            stored = await self._client.replace(wanted, key[1], namespace=key[0])
        except ApiError as error:
            if error.status.code == 409:
                self.worklist.add(key)
            elif error.status.code != 404:  # deleted meanwhile
                raise
            return False
        metrics.STATUS_WRITES.inc()
        self._seen[key] = str(stored["metadata"]["resourceVersion"])
        return True

    def _ask(self, key: Key, reports: Sequence[PodReport]) -> None:
        self.inquiry.follow(key, askable(reports))
        self.uploads.follow(key, askable_uploads(reports))

    async def _tell(self, announcement: Announcement, now: datetime) -> None:
        if await self._recorder.post(announcement, now):
            self._counting.told(announcement)


def handlers(controller: Controller, settings: Settings) -> kopf.OperatorRegistry:
    """What kopf watches: pipelines and checks. No handler here stores anything in an object."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return kube.connection()

    @kopf.on.event(api.GROUP, api.VERSION, api.PLURAL, registry=registry)
    async def pipeline_changed(namespace: str | None, name: str, meta: Mapping[str, Any], **_: Any) -> None:
        controller.changed(namespace or "", name, meta.get("resourceVersion"))

    if settings.check:  # without, there is no right to see Jobs

        @kopf.on.event("batch", "v1", "jobs", registry=registry)
        async def check_changed(namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:
            controller.changed(namespace or "", labels.get(source_check.CHECK, ""))

    return registry


def watching() -> kopf.OperatorSettings:
    """kopf without what it adds to objects, and with Jobs selected by the API server."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.persistence.finalizer = f"{api.GROUP}/finalizer"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=api.GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=api.GROUP)
    settings.watching.chunk_size = _CHUNK
    settings.watching.label_selectors["jobs"] = source_check.CHECK
    settings.networking.request_timeout = timedelta(seconds=30).total_seconds()
    return settings


async def run(settings: Settings) -> None:
    """The controller's process, until it is told to stop; raises EndedError when it is to be started anew."""
    config = kube.present()
    controller = Controller(AsyncClient(config, field_manager=COMPONENT), settings)
    for counter in (metrics.LOADER_FAILURES, metrics.UPLOAD_FAILURES):
        metrics.begin(counter, (*sorted(REASONS), "Other"))
    metrics.PIPELINES_WAITING.set_function(lambda: len(controller.worklist))
    async with kube.http(config) as http:
        await _run(controller, LabelledPods(http, controller.changed), FailedPods(http, controller.fell), settings)


async def _run(controller: Controller, pods: LabelledPods, failed: FailedPods, settings: Settings) -> None:
    controller.worklist.hold()

    def not_ready() -> str | None:
        return controller.not_ready() or pods.problem

    checks = {"alive": controller.not_alive, "ready": not_ready, "registry": metrics.CONTROLLER}
    async with health.serving(settings.health_port, **checks):  # type: ignore[arg-type]
        tasks = {
            asyncio.create_task(controller.resync(), name="resync"),
            asyncio.create_task(controller.inquiry.run(), name="inquiry of loaders"),
            asyncio.create_task(controller.uploads.run(), name="inquiry of uploads"),
            asyncio.create_task(pods.run(), name="pods"),
            asyncio.create_task(failed.run(), name="failed pods"),
            asyncio.create_task(_watch(controller, pods, settings), name="watch"),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if error := task.exception():
                    raise EndedError(f"the {task.get_name()} cannot go on: {error!r}") from error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await controller.worklist.close()


async def _watch(controller: Controller, pods: LabelledPods, settings: Settings) -> None:
    await pods.listed()
    controller.worklist.release()  # a pipeline is looked at once, and not for each of its pods
    await controller.listed.wait()  # kopf would not survive an API server that does not answer, or not of pipelines
    _log.info("watching pipelines and the pods that name them", resync_s=RESYNC_SECONDS)
    await kopf.operator(
        registry=handlers(controller, settings),
        settings=watching(),
        # kopf would ask for the user's name, and the image's user has none.
        identity=cast("Any", COMPONENT),
        standalone=True,
        clusterwide=True,
    )


def _obstacle(error: Exception) -> str:
    """Why the pipelines could not be listed, and what to do if that is known."""
    # An API server that knows nothing of the whole group says so in plain text.
    if isinstance(error, httpx2.HTTPStatusError) and error.response.status_code == 404:
        return (
            f"the cluster has no resource {api.PLURAL}.{api.GROUP}. Install the chart with crds.install=true, "
            "or apply crds/ first"
        )
    return str(error) or repr(error)


def _parsed(pipeline: Object) -> tuple[api.Pipeline | None, str | None]:
    """The pipeline, or why it cannot be used."""
    try:
        parsed = api.Pipeline.parse(pipeline)
        described(parsed, source_check.pin_of(pipeline))
        return parsed, None
    except CheckpointConfigError as error:
        return None, str(error)
