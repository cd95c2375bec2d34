"""What people are told about pods and pipelines through Events: decided purely, posted at most once.

An Event's name is derived from what it tells, so the API server itself refuses to tell it twice, restarts included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Literal

import httpx2
import structlog
from lightkube import ApiError, AsyncClient

from preheat_operator import api, kube
from preheat_operator.foreign import Object, printable
from preheat_operator.loader_run import Failure, Success
from preheat_operator.observation import PodReport
from preheat_operator.progress import human_seconds
from preheat_operator.quantity import human_bytes
from preheat_operator.source_check import check_said

COMPONENT = "preheat-controller"
NOT_INJECTED, VERSION_CHANGED, VOLUME_TOO_SMALL = "NotInjected", "VersionChanged", "VolumeTooSmall"
LOADER_STALLED = "LoaderStalled"
# Events live for an hour: what is older has been told, or is not news.
_NEWS = timedelta(hours=1)
#: Longer than no operator runs while one takes another's place.
_ABSENCE = timedelta(minutes=3)
_AT_MOST_ON_PIPELINE = 5
_REMEMBERED = 50_000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Announcement:
    """One Event to be: `key` tells apart what is told twice about the same object for the same reason."""

    kind: Literal["Pod", "CheckpointPipeline"]
    namespace: str
    name: str
    uid: str
    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    key: str
    run: Success | Failure | None = None  # the loader's, if it is about one
    time: str = ""  # when it happened: RFC 3339, UTC

    def preceded(self, now: datetime) -> bool:
        """Whether it happened long enough ago for an operator that was there before to have told of it."""
        return self.time < _before(now, _ABSENCE)

    @property
    def event_name(self) -> str:
        """The Event's name, the same for the same news."""
        digest = sha256("/".join((self.kind, self.uid, self.reason, self.key)).encode()).hexdigest()
        return f"{self.name[:200].rstrip('.-')}.{digest[:16]}"


def announcements(pipeline: Object, reports: Sequence[PodReport], now: datetime) -> Iterator[Announcement]:
    """Everything worth telling about a pipeline, as its status has it, and about its pods; `now` is in UTC."""
    since = _before(now, _NEWS)
    namespace, name = pipeline["metadata"]["namespace"], pipeline["metadata"]["name"]
    told = 0
    for pod in sorted(reports, key=_newest, reverse=True):
        for type_, reason, message, key, at, run in _news(pod, name, since):
            yield Announcement("Pod", namespace, pod.name, pod.uid, type_, reason, message, key, run, at)
            if type_ == "Warning" and told < _AT_MOST_ON_PIPELINE:
                told += 1
                text, key = printable(f"pod {pod.name}: {message}"), f"{pod.uid}/{key}"
                uid = pipeline["metadata"]["uid"]
                yield Announcement("CheckpointPipeline", namespace, name, uid, type_, reason, text, key, time=at)
    yield from _first_read(pipeline, reports, since)
    yield from _of_check(pipeline, since)
    yield from _of_progress(pipeline, reports)


def _newest(pod: PodReport) -> str:
    return pod.failure.time if pod.failure else pod.created


def _news(
    pod: PodReport, pipeline: str, since: str
) -> Iterator[tuple[Literal["Normal", "Warning"], str, str, str, str, Success | Failure | None]]:
    if pod.phase == "missed":
        yield "Warning", NOT_INJECTED, _missed(pipeline), "", pod.created, None
    if pod.failure and pod.failure.time >= since:
        failure = pod.failure
        yield "Warning", failure.reason, _failed(failure), str(failure.run), failure.time, failure
    if pod.success and pod.success.time >= since:
        where = pod.success.source.get("uri", f"pipeline {pipeline}")
        passed = pod.success.resume.get("passed") or ()
        over = "".join(f"; passed over {each['checkpoint']}: {each['why']}" for each in passed)
        text, success = printable(f"checkpoint loaded from {where}{over}"), pod.success
        yield "Normal", "CheckpointLoaded", text, str(success.run), success.time, success


def _missed(pipeline: str) -> str:
    return (
        f"carries the label {api.LABEL}={pipeline} but runs without the checkpoint loader: it was made while Preheat "
        "was not installed, or in a namespace that it leaves alone. Make the pod anew"
    )


def _failed(failure: Failure) -> str:
    text = f"checkpoint not loaded: {failure.message}"
    return printable(f"{text}. {failure.remedy}" if failure.remedy else text)


def _first_read(pipeline: Object, reports: Sequence[PodReport], since: str) -> Iterator[Announcement]:
    for pod in reports:
        own = pod.success and pod.success.resume.get("checkpoint")  # of the run, and not what the stages name
        if pod.success and pod.success.time >= since and "uri" in pod.success.source and not own:
            version = str(pod.success.source.get("version", ""))
            text = f"read {pod.success.source['uri']}" + (f" at version {version}" if version else "")
            yield _on_pipeline(pipeline, "Normal", "SourceRead", text, version, pod.success.time)
            return


def _of_check(pipeline: Object, since: str) -> Iterator[Announcement]:
    """How the check of the source ended: a failure or warning once for as long as it lasts, another version once."""
    status = pipeline.get("status") or {}
    check = status.get("check") or {}
    at = str(check.get("time", ""))
    if at < since:
        return
    if check.get("reason"):
        ready: Object = next((each for each in status.get("conditions") or () if each.get("type") == "Ready"), {})
        key = f"{ready.get('lastTransitionTime')}/{check.get('message')}"
        yield _on_pipeline(pipeline, "Warning", str(check["reason"]), check_said(check), key, at)
        return
    if check.get("previousVersion"):
        text = f"{check.get('uri')} has version {check.get('version')}, it had {check['previousVersion']}"
        text = f"{text}: pods that are made from now on get the new one"
        yield _on_pipeline(pipeline, "Normal", VERSION_CHANGED, text, at, at)
    for warning in check.get("warnings") or ():
        yield _on_pipeline(pipeline, "Warning", VOLUME_TOO_SMALL, warning, warning, at)


def _of_progress(pipeline: Object, reports: Sequence[PodReport]) -> Iterator[Announcement]:
    """Loaders that receive nothing, once for each place at which they stand still."""
    namespace, uids = pipeline["metadata"]["namespace"], {pod.name: pod.uid for pod in reports}
    told = (pipeline.get("status") or {}).get("progress") or {}
    for loader in told.get("loaders") or ():
        if "stalledSeconds" not in loader or loader["pod"] not in uids:
            continue
        uid, where = uids[loader["pod"]], f"{human_bytes(loader['bytesDone'])} of {human_bytes(loader['bytesTotal'])}"
        text = f"the loader has received nothing for {human_seconds(loader['stalledSeconds'])}, after {where}"
        key = str(loader["bytesDone"])
        yield Announcement("Pod", namespace, loader["pod"], uid, "Warning", LOADER_STALLED, text, key)
        yield _on_pipeline(pipeline, "Warning", LOADER_STALLED, f"pod {loader['pod']}: {text}", f"{uid}/{key}")


def _on_pipeline(
    pipeline: Object, type_: Literal["Normal", "Warning"], reason: str, message: str, key: str, at: str = ""
) -> Announcement:
    metadata = pipeline["metadata"]
    where = metadata["namespace"], metadata["name"], metadata["uid"]
    key = f"{metadata.get('generation')}/{key}"
    return Announcement("CheckpointPipeline", *where, type_, reason, printable(message), key, time=at)


def _before(now: datetime, span: timedelta) -> str:
    return (now - span).strftime("%Y-%m-%dT%H:%M:%SZ")


class Recorder:
    """Posts announcements as Events of the object's namespace; what cannot be posted is logged and left.

    An operator that may post none says so, and tries again after `pause` seconds with what is then to be told.
    """

    def __init__(self, client: AsyncClient, pause: float = 60) -> None:
        self._client = client
        self._pause = pause
        self._silent_until = 0.0
        self._posted: dict[str, None] = {}

    async def post(self, announcement: Announcement, now: datetime) -> bool:
        """Whether this was news; False when it had been told before."""
        name = announcement.event_name
        if name in self._posted or time.monotonic() < self._silent_until:
            return False
        try:
            event = kube.Event(**_event(announcement, now))
            await self._client.create(event)
        except ApiError as error:
            if error.status.code == 403 and not _going(error):
                self._silent_until = time.monotonic() + self._pause
            if error.status.code != 404 and error.status.reason != "AlreadyExists" and not _going(error):
                _log.warning("event not posted", name=announcement.name, error=str(error))
                return False
            fresh = False
        except httpx2.HTTPError as error:
            _log.warning("event not posted", name=announcement.name, error=repr(error))
            return False
        else:
            fresh = True
        self._remember(name)
        return fresh

    def remember(self, announcement: Announcement) -> None:
        """It was told by another process."""
        self._remember(announcement.event_name)

    def _remember(self, name: str) -> None:
        self._posted[name] = None
        if len(self._posted) > _REMEMBERED:
            del self._posted[next(iter(self._posted))]


def _going(error: ApiError) -> bool:
    """Whether the namespace takes nothing new because it is being deleted."""
    details = error.status.details
    return any(cause.reason == "NamespaceTerminating" for cause in (details and details.causes) or ())


def _event(announcement: Announcement, now: datetime) -> dict[str, Any]:
    moment = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    version = "v1" if announcement.kind == "Pod" else f"{api.GROUP}/{api.VERSION}"
    return {
        "metadata": {"name": announcement.event_name, "namespace": announcement.namespace},
        "involvedObject": {
            "apiVersion": version,
            "kind": announcement.kind,
            "namespace": announcement.namespace,
            "name": announcement.name,
            "uid": announcement.uid,
        },
        "type": announcement.type,
        "reason": announcement.reason,
        "message": announcement.message,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
        "source": {"component": COMPONENT},
    }
