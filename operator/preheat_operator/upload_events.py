"""What people are told about uploads through Events: one that fails, and what was not sent when a pod ended. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from preheat_operator.announcement import Announcement, on_pipeline
from preheat_operator.foreign import Object, printable
from preheat_operator.observation import PodReport
from preheat_operator.uploads import FAILING, heading, sentence

_AT_MOST_ON_PIPELINE = 5


def upload_announcements(pipeline: Object, reports: Sequence[PodReport], since: str) -> Iterator[Announcement]:
    """As the pipeline's status has it; `since` is when news begin."""
    uploads = (pipeline.get("status") or {}).get("uploads") or {}
    uids = {pod.name: pod.uid for pod in reports}
    failing = [each for each in uploads.get("senders") or () if each["state"] == "failing" and each["pod"] in uids]
    for number, each in enumerate(failing):
        key = f"{uids[each['pod']]}/{each['reason']}"
        yield _on_pod(pipeline, uids, each, FAILING, key)
        if number < _AT_MOST_ON_PIPELINE:
            yield on_pipeline(pipeline, "Warning", FAILING, sentence(each), key)
    for each in uploads.get("unsent") or ():
        if each["time"] < since:
            continue
        key = f"{each['pod']}/{each['time']}"
        if each["pod"] in uids:
            yield _on_pod(pipeline, uids, each, heading(each), key)
        yield on_pipeline(pipeline, "Warning", heading(each), sentence(each), key, each["time"])


def _on_pod(pipeline: Object, uids: Mapping[str, str], told: Object, reason: str, key: str) -> Announcement:
    text = f"{told['reason']}: {told.get('message', '')}"
    text = printable(f"{text}. {told['remedy']}" if told.get("remedy") else text)
    where = pipeline["metadata"]["namespace"], told["pod"], uids[told["pod"]]
    return Announcement("Pod", *where, "Warning", reason, text, key, time=str(told.get("time", "")))
