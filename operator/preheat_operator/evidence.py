"""What is known of one generation of a pipeline: from its pods, its check, and what its status remembers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from preheat_operator.deaths import Death, forgotten_until, kept, poisoned
from preheat_operator.foreign import Object
from preheat_operator.loader_run import FETCHED, Success
from preheat_operator.memory import condition, newest
from preheat_operator.observation import PodReport
from preheat_operator.progress import Loaders
from preheat_operator.room import Room, shortages
from preheat_operator.source_check import Checked
from preheat_operator.uploads import Uploads

KEPT_FAILURES = 5


@dataclass(frozen=True)
class Evidence:
    """What is known of one generation of a pipeline."""

    generation: int
    source: Object
    loaded: int
    success_time: str  # empty: no loader has succeeded
    failures: Sequence[Object]  # newest first
    check: Object  # how the last check of the source ended, as the status keeps it; empty: there was none
    last_load: Object  # the newest run that fetched the checkpoint; empty: there was none
    resume: Object  # what the newest run decided where the pipeline resumes a run; empty: there was none
    problem: str | None = None  # why the spec cannot be used
    checking: bool = False  # a check of the source is on its way
    outdated: int = 0  # pods that were made from an earlier generation
    loaders: Loaders = field(default_factory=Loaders)  # that run now
    deaths: Sequence[Death] = ()  # on checkpoints of the run that is resumed, newest first
    poisoned: Sequence[str] = ()  # what is to be said of those on which too many died
    cautions: Sequence[str] = ()  # what is wrong with the pipeline's annotations
    uploads: Uploads | None = None  # None: the pipeline has none

    @property
    def check_failed(self) -> bool:
        """Whether the last word on the source is a failed check."""
        return bool(self.check.get("reason")) and str(self.check.get("time", "")) > self.success_time

    @property
    def failing(self) -> Object | None:
        """The newest failure, unless a loader has succeeded since."""
        newest = self.failures[0] if self.failures else None
        return newest if newest is not None and newest["time"] > self.success_time else None

    def checked(self, check: Checked | None, rooms: Iterable[Room]) -> Evidence:
        """With how a check ended, if one did, and with what its bundle will not fit into now.

        What it has found is what the next pod gets, whatever earlier ones were given.
        """
        found = check.success.source if check and check.success else None
        last = check.to_status(self.check) if check else self.check
        return replace(self, check=_warned(last, rooms), source=found or self.source)

    def with_deaths(self, pipeline: Object, pods: Sequence[PodReport], before: Object) -> Evidence:
        """With the deaths in the pods of all generations, and those that the present status remembers."""
        forgotten, problem = forgotten_until(pipeline)
        own = [pod for pod in pods if pod.pipeline_uid in (None, pipeline["metadata"].get("uid"))]
        decisions = [{"time": pod.success.time, **pod.success.resume} for pod in own if pod.success]
        deaths = kept((death for pod in own for death in pod.deaths), before, decisions, forgotten)
        lines = [each.line(pipeline["metadata"]["name"]) for each in poisoned(pipeline, deaths)]
        return replace(self, deaths=deaths, poisoned=lines, cautions=[problem] if problem else [])


def gather(pods: Sequence[PodReport], generation: int, remembered: Object) -> Evidence:
    """What the generation's pods tell, and what its status remembers; the pods are in the order of their making."""
    successes = [pod.success for pod in pods if pod.success]
    newest = max(successes, key=lambda success: success.time, default=None)
    return Evidence(
        generation=generation,
        source=_source(newest, remembered),
        loaded=sum(pod.phase == "loaded" for pod in pods),
        success_time=max(newest.time if newest else "", _remembered_success(remembered)),
        failures=_failures(pods, remembered),
        check=remembered.get("check") or {},
        last_load=_last_load(pods, remembered),
        resume=_resume(pods, remembered),
    )


def _warned(check: Object, bounds: Iterable[Room]) -> Object:
    found = shortages(bounds, check["outputBytes"]) if check.get("outputBytes") else []
    kept = {key: value for key, value in check.items() if key != "warnings"}
    return {**kept, "warnings": found} if found else kept


def _source(newest: Success | None, remembered: Object) -> Object:
    """Of the stages' own source: a checkpoint of the run is another matter."""
    resumed = newest is not None and newest.resume.get("checkpoint")
    return (newest.source if newest and not resumed else None) or remembered.get("source") or {}


def _resume(pods: Sequence[PodReport], remembered: Object) -> Object:
    """The newest loader's decision."""
    told = [
        {"pod": pod.name, "time": pod.success.time, **pod.success.resume}
        for pod in pods
        if pod.success and pod.success.resume
    ]
    newest_first = (*reversed(told), remembered.get("resume") or {})
    return max(newest_first, key=lambda each: str(each.get("time", "")))


def _last_load(pods: Sequence[PodReport], remembered: Object) -> Object:
    """How long the newest fetch took. A pod that found its bundle on the volume says nothing about that."""
    loads = [_load(pod.name, pod.success) for pod in pods if pod.success and pod.success.outcome == FETCHED]
    return max((remembered.get("lastLoad") or {}, *loads), key=lambda load: str(load.get("time", "")))


def _load(pod: str, success: Success) -> dict[str, Any]:
    facts = {"seconds": success.seconds, "fetchedBytes": success.fetched_bytes, "bytesPerSecond": success.rate}
    return {"pod": pod, "time": success.time, **{key: value for key, value in facts.items() if value is not None}}


def _remembered_success(remembered: Object) -> str:
    """A time at which a loader had succeeded: whatever failed until then had been overcome."""
    ready = condition(remembered, "Ready")
    if (ready.get("status"), ready.get("reason")) != ("True", "Loaded"):
        return ""
    overcome = (str(failure.get("time", "")) for failure in remembered.get("failures") or ())
    return max(str(ready.get("lastTransitionTime", "")), *overcome)


def _failures(pods: Sequence[PodReport], remembered: Object) -> list[Object]:
    """The newest failure of each pod, newest first."""
    created = {pod.name: pod.created for pod in pods}
    seen: list[Object] = [
        {
            "pod": pod.name,
            "time": pod.failure.time,
            "reason": pod.failure.reason,
            "message": pod.failure.message,
            "remedy": pod.failure.remedy,
        }
        for pod in pods
        if pod.failure
    ]
    return newest(seen, remembered.get("failures") or (), created, KEPT_FAILURES)
