"""What people are told about pods and pipelines through Events. Pure: `recorder` posts it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal

from preheat_operator import api
from preheat_operator.announcement import NEWS, Announcement, before, on_pipeline
from preheat_operator.deaths import deaths_of, poisoned
from preheat_operator.foreign import Object, printable
from preheat_operator.loader_run import Failure, Success
from preheat_operator.observation import PodReport
from preheat_operator.progress import human_seconds
from preheat_operator.quantity import human_bytes
from preheat_operator.source_check import check_said
from preheat_operator.upload_events import upload_announcements

NOT_INJECTED, VERSION_CHANGED, VOLUME_TOO_SMALL = "NotInjected", "VersionChanged", "VolumeTooSmall"
LOADER_STALLED, POISONED = "LoaderStalled", "CheckpointPoisoned"
_AT_MOST_ON_PIPELINE = 5


def announcements(pipeline: Object, reports: Sequence[PodReport], now: datetime) -> Iterator[Announcement]:
    """Everything worth telling about a pipeline, as its status has it, and about its pods; `now` is in UTC."""
    since = before(now, NEWS)
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
    for each in poisoned(pipeline, deaths_of(pipeline.get("status") or {})):
        if (last := each.deaths[0]).time >= since:
            key = f"{last.run}/{last.checkpoint}/{each.deaths[-1].start}"
            yield on_pipeline(pipeline, "Warning", POISONED, each.line(name), key, last.time)
    yield from upload_announcements(pipeline, reports, since)


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
            yield on_pipeline(pipeline, "Normal", "SourceRead", text, version, pod.success.time)
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
        yield on_pipeline(pipeline, "Warning", str(check["reason"]), check_said(check), key, at)
        return
    if check.get("previousVersion"):
        text = f"{check.get('uri')} has version {check.get('version')}, it had {check['previousVersion']}"
        text = f"{text}: pods that are made from now on get the new one"
        yield on_pipeline(pipeline, "Normal", VERSION_CHANGED, text, at, at)
    for warning in check.get("warnings") or ():
        yield on_pipeline(pipeline, "Warning", VOLUME_TOO_SMALL, warning, warning, at)


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
        yield on_pipeline(pipeline, "Warning", LOADER_STALLED, f"pod {loader['pod']}: {text}", f"{uid}/{key}")
