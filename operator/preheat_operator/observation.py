"""What one labelled pod says of its loader, of its training's deaths and of its upload, read from the pod alone.

Everything in a pod's status may be missing, cut or written by somebody else: nothing here raises, and what leaves here
is short, printable and of the type that the resource's status declares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from preheat_operator.answering import address_of
from preheat_operator.deaths import Death, deaths_in
from preheat_operator.foreign import Object, is_count, mapping, mappings
from preheat_operator.loader_container import LOADER, PROGRESS_PORT, PROGRESS_VARIABLE, described_in
from preheat_operator.loader_run import KILLED, Failure, Success, failure_of, stuck, succeeded, success_of
from preheat_operator.termination import Termination, terminations
from preheat_operator.upload_observation import Upload, observe_upload

Phase = Literal["missed", "loading", "loaded", "continued", "failed"]


@dataclass(frozen=True)
class PodReport:
    """One labelled pod, reduced to what status, Events and metrics need."""

    name: str
    uid: str
    created: str
    phase: Phase
    pipeline_uid: str | None = None
    generation: int | None = None  # of the pipeline the loader was injected from
    success: Success | None = None
    failure: Failure | None = None
    address: str | None = None  # where its loader can be asked how far it is
    deaths: tuple[Death, ...] = ()  # of its training, on checkpoints of the run that is resumed
    upload: Upload | None = None  # of what it saves

    def follows(self, uid: str, generation: int) -> bool:
        """Whether the pod was injected from this very pipeline in this generation; unknown counts as yes."""
        return self.pipeline_uid in (None, uid) and self.generation in (None, generation)


def observe(pod: Object) -> PodReport:
    """The report of one pod that carries the pipeline label."""
    metadata, status = mapping(pod, "metadata"), mapping(pod, "status")
    name, uid = str(metadata.get("name", "")), str(metadata.get("uid", ""))
    created = str(metadata.get("creationTimestamp") or "")
    loader = _named(mapping(pod, "spec").get("initContainers"))
    if loader is None:
        return PodReport(name, uid, created, "missed")
    container = _named(status.get("initContainerStatuses")) or {}
    report = _report_of(metadata, status, container, loader, created)
    address = address_of(pod, container, loader, PROGRESS_VARIABLE, PROGRESS_PORT)
    return replace(report, address=address, deaths=deaths_in(pod), upload=observe_upload(pod))


def observe_check(pod: Object) -> PodReport:
    """The report of one pod that checks a pipeline's source; what it is called apart from that does not matter."""
    metadata, status = mapping(pod, "metadata"), mapping(pod, "status")
    created = str(metadata.get("creationTimestamp") or "")
    container = _named(status.get("containerStatuses")) or {}
    return _report_of(metadata, status, container, _named(mapping(pod, "spec").get("containers")) or {}, created)


def _report_of(metadata: Object, status: Object, container: Object, loader: Object, created: str) -> PodReport:
    name, uid = str(metadata.get("name", "")), str(metadata.get("uid", ""))
    ends = list(terminations(container))
    success = next((success_of(end) for end in ends if succeeded(end)), None)
    failures = (failure_of(end, created) for end in ends if _counts_as_failure(end, metadata))
    failure = next(failures, None) or stuck(container, status, created)
    phase = _phase(container, status, failure)
    pipeline_uid, generation = _injected_from(loader)
    return PodReport(name, uid, created, phase, pipeline_uid, generation, success, failure)


def _phase(container: Object, status: Object, failure: Failure | None) -> Phase:
    state = mapping(container, "state")
    ended = isinstance(state.get("terminated"), Mapping)
    newest = next(terminations(container), None) if ended else None
    if newest and newest.code == 0:
        return "loaded" if succeeded(newest) else "continued"
    if failure is None:
        return "loading"
    crashed = mapping(state, "waiting").get("reason") == "CrashLoopBackOff"
    return "failed" if ended or crashed or stuck(container, status, "") else "loading"


def _counts_as_failure(end: Termination, metadata: Object) -> bool:
    if end.code == 0:
        return not succeeded(end)
    return not (metadata.get("deletionTimestamp") and end.code in KILLED and end.reason != "OOMKilled")


def _injected_from(loader: Object) -> tuple[str | None, int | None]:
    told = described_in(loader)
    uid, generation = told.get("uid"), told.get("generation")
    return (uid if isinstance(uid, str) else None), (generation if is_count(generation) else None)


def _named(containers: object) -> Object | None:
    return next((each for each in mappings(containers) if each.get("name") == LOADER), None)
