"""The status a pipeline should have: a pure function of the resource, what its pods report, and the clock.

`source` and `failures` describe `observedGeneration`; pods injected from an earlier generation are counted only.
What was once seen of a generation is kept when its pods are gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from preheat.errors import (
    CheckpointError,
    CheckpointLoadError,
    CheckpointSourceError,
    CheckpointValidationError,
)
from preheat_operator.foreign import Object, printable
from preheat_operator.loader_run import FETCHED, Success
from preheat_operator.observation import PodReport
from preheat_operator.progress import Loaders, Round
from preheat_operator.quantity import human_bytes
from preheat_operator.room import Room, shortages
from preheat_operator.source_check import Checked, check_said

KEPT_FAILURES = 5
_TYPES = ("Ready", "Reconciling", "Stalled", "SourceResolved", "Loading")
State = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Verdict:
    """One condition without its clock."""

    state: State
    reason: str
    message: str


@dataclass(frozen=True)
class _Evidence:
    """What is known of one generation of a pipeline."""

    problem: str | None
    generation: int
    source: Object
    loaded: int
    outdated: int
    success_time: str  # empty: no loader has succeeded
    failures: Sequence[Object]  # newest first
    check: Object  # how the last check of the source ended, as the status keeps it; empty: there was none
    checking: bool  # one is on its way
    last_load: Object  # the newest run that fetched the checkpoint; empty: there was none
    loaders: Loaders  # that run now
    resume: Object  # what the newest run decided where the pipeline resumes a run; empty: there was none

    @property
    def check_failed(self) -> bool:
        """Whether the last word on the source is a failed check."""
        return bool(self.check.get("reason")) and str(self.check.get("time", "")) > self.success_time

    @property
    def failing(self) -> Object | None:
        """The newest failure, unless a loader has succeeded since."""
        newest = self.failures[0] if self.failures else None
        return newest if newest is not None and newest["time"] > self.success_time else None


def wanted_status(
    pipeline: Object,
    reports: Iterable[PodReport],
    now: datetime,
    problem: str | None = None,
    check: Checked | None = None,
    *,
    checking: bool = False,
    rooms: Iterable[Room] = (),
    loaders: Loaders | None = None,
) -> dict[str, Any]:
    """The whole status of a pipeline; `problem` is why its spec cannot be used, `now` is in UTC.

    `check` is how the newest check of the source ended, if that is news; `checking` says that one is on its way;
    `rooms` are what bounds the pipeline's volume, `loaders` what is known of those that run.
    """
    metadata = pipeline["metadata"]
    generation = int(metadata.get("generation", 1))
    pods = sorted(reports, key=lambda pod: (pod.created, pod.name))
    current = [pod for pod in pods if pod.follows(str(metadata.get("uid", "")), generation)]
    before = _status_of(pipeline)
    remembered = before if before.get("observedGeneration") == generation else {}
    evidence = replace(
        _gather(problem, generation, current, remembered, outdated=len(pods) - len(current)), checking=checking
    )
    if check:
        evidence = _with_check(evidence, check)
    loaders = loaders or Loaders.of(pods, Round())
    evidence = replace(evidence, check=_warned(evidence.check, rooms), loaders=loaders)
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "conditions": _conditions(_verdicts(evidence), before, now),
        "pods": pod_counts(pods),
    }
    if evidence.source:
        status["source"] = dict(evidence.source)
    if evidence.check:
        status["check"] = dict(evidence.check)
    if progress := loaders.to_status():
        status["progress"] = progress
    if evidence.last_load:
        status["lastLoad"] = dict(evidence.last_load)
    if evidence.resume:
        status["resume"] = dict(evidence.resume)
    if evidence.failures:
        status["failures"] = [dict(failure) for failure in evidence.failures]
    return status


def pod_counts(pods: Iterable[PodReport]) -> dict[str, int]:
    """How many pods carry the label (matched) and what became of them; injected: all that were not missed."""
    counts = dict.fromkeys(("matched", "injected", "loading", "loaded", "continued", "failed", "missed"), 0)
    for pod in pods:
        counts["matched"] += 1
        counts["injected"] += pod.phase != "missed"
        counts[pod.phase] += 1
    return counts


def differs(wanted: Object, current: Object | None) -> bool:
    """Whether writing `wanted` would change anything; the order of conditions does not matter."""
    return _comparable(wanted) != _comparable(current or {})


def _gather(
    problem: str | None, generation: int, pods: Sequence[PodReport], remembered: Object, outdated: int
) -> _Evidence:
    successes = [pod.success for pod in pods if pod.success]
    newest = max(successes, key=lambda success: success.time, default=None)
    return _Evidence(
        problem=problem,
        generation=generation,
        source=_source(newest, remembered),
        loaded=sum(pod.phase == "loaded" for pod in pods),
        outdated=outdated,
        success_time=max(newest.time if newest else "", _remembered_success(remembered)),
        failures=_failures(pods, remembered),
        check=remembered.get("check") or {},
        checking=False,
        last_load=_last_load(pods, remembered),
        loaders=Loaders(),
        resume=_resume(pods, remembered),
    )


def _with_check(evidence: _Evidence, check: Checked) -> _Evidence:
    """What a check has found is what the next pod gets, whatever earlier ones were given."""
    found = check.success.source if check.success else None
    return replace(evidence, check=check.to_status(evidence.check), source=found or evidence.source)


def _warned(check: Object, bounds: Iterable[Room]) -> Object:
    """The check with what its bundle will not fit into now."""
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
    ready = _condition(remembered, "Ready")
    if (ready.get("status"), ready.get("reason")) != ("True", "Loaded"):
        return ""
    overcome = (str(failure.get("time", "")) for failure in remembered.get("failures") or ())
    return max(str(ready.get("lastTransitionTime", "")), *overcome)


def _failures(pods: Sequence[PodReport], remembered: Object) -> list[Object]:
    """The newest failure of each pod, newest first. A pod that exists speaks for itself, a gone one is remembered."""
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
    known = [f for f in remembered.get("failures") or () if f.get("pod") and f.get("time") and f.get("reason")]
    gone = [f for f in known if f["pod"] not in created or created[f["pod"]] > f["time"]]
    # A node whose clock is behind tells of failures from before its pod was created: they are the pod's own.
    told = {(f["pod"], f["time"]) for f in seen}
    kept = [f for f in gone if (f["pod"], f["time"]) not in told]
    return sorted([*kept, *seen], key=lambda f: (f["time"], f["pod"]), reverse=True)[:KEPT_FAILURES]


def _verdicts(evidence: _Evidence) -> dict[str, Verdict]:
    if evidence.problem:
        refused = Verdict("True", "InvalidPipeline", printable(evidence.problem))
        ready = Verdict("False", "InvalidPipeline", refused.message)
    else:
        refused = Verdict("False", "Accepted", "nothing waits for a change of the spec")
        ready = _ready(evidence)
    if evidence.checking:
        progress = Verdict("True", "Checking", "a Job of the namespace reads the source, without its payload")
    else:
        progress = Verdict("False", "Observed", f"the status describes generation {evidence.generation}")
    return {
        "Ready": ready,
        "Reconciling": progress,
        "Stalled": refused,
        "SourceResolved": _resolved(evidence),
        "Loading": Verdict(*evidence.loaders.verdict()),
    }


def _ready(evidence: _Evidence) -> Verdict:
    failure = evidence.failing
    if failure:
        said = f"pod {failure['pod']}: {failure.get('message', '')}"
        remedy = failure.get("remedy")
        return Verdict("False", failure["reason"], printable(f"{said}. {remedy}" if remedy else said))
    if evidence.check_failed:
        return Verdict("False", evidence.check["reason"], check_said(evidence.check))
    if not evidence.success_time:
        return _unloaded(evidence)
    by = f"loaded by {_count(evidence.loaded, 'pod')}" if evidence.loaded else "was loaded; the pods that did are gone"
    what = f"{_taken(evidence)} {by}{_began(evidence.resume)}{_outdated(evidence)}{_warnings(evidence)}"
    return Verdict("True", "Loaded", printable(what, 4096))


def _taken(evidence: _Evidence) -> str:
    """What the newest loader brought."""
    resume = evidence.resume
    if not resume.get("checkpoint"):
        return _described(evidence.source)
    return f"checkpoint {resume['checkpoint']} of the run in {resume['run']} ({resume['strategy']})"


def _began(resume: Object) -> str:
    """That no checkpoint of the run was taken, and why the best one was not; the field has all reasons."""
    began = f"; nothing to resume from in {resume['run']}" if resume and not resume.get("checkpoint") else ""
    passed = resume.get("passed") or ()
    more = len(passed) - 1 + int(resume.get("morePassed") or 0)
    others = f", and {more} more" if more > 0 else ""
    return began + "".join(f"; passed over {each['checkpoint']}: {each['why']}{others}" for each in passed[:1])


def _unloaded(evidence: _Evidence) -> Verdict:
    """No pod has loaded the checkpoint so far."""
    if evidence.check:
        resume = (
            f"; of the run a pod would resume from {evidence.check['resume']}" if "resume" in evidence.check else ""
        )
        text = f"{_described(evidence.source)} found; no pod has loaded it yet{resume}{_outdated(evidence)}"
        return Verdict("True", "Checked", printable(text + _warnings(evidence), 4096))
    if evidence.checking:
        return Verdict("Unknown", "Checking", "accepted; the source is being read")
    text = f"accepted; source not read yet{_outdated(evidence)}{_warnings(evidence)}"
    return Verdict("True", "Accepted", printable(text, 4096))


def _resolved(evidence: _Evidence) -> Verdict:
    failure, source = evidence.failing, evidence.source
    if evidence.check_failed and evidence.check["reason"] in _SOURCE_REASONS:
        return Verdict("False", evidence.check["reason"], str(evidence.check.get("message", "")))
    if failure and failure["reason"] in _SOURCE_REASONS:
        return Verdict("False", failure["reason"], failure.get("message", ""))
    if source.get("uri"):
        version = f" at version {source['version']}" if source.get("version") else ""
        return Verdict("True", "Read", printable(f"{source['uri']}{version}"))
    return Verdict("Unknown", "NotRead", "nobody has read the source yet")


def _described(source: Object) -> str:
    facts = [str(source["format"])] if source.get("format") else []
    if "tensors" in source:
        facts.append(_count(source["tensors"], "tensor"))
    if "selectedBytes" in source:
        facts.append(human_bytes(source["selectedBytes"]))
    where = f"checkpoint {source['uri']}" if source.get("uri") else "checkpoint"
    return f"{where} ({', '.join(facts)})" if facts else where


def _warnings(evidence: _Evidence) -> str:
    """The first of them: the fields have all."""
    still = [f"the loader of pod {pod} receives nothing" for pod in evidence.loaders.stalled[:1]]
    warnings = (*still, *evidence.check.get("warnings", ()), *evidence.source.get("warnings", ()))
    return "".join(f"; warning: {each}" for each in warnings[:1])


def _outdated(evidence: _Evidence) -> str:
    if not evidence.outdated:
        return ""
    verb = "was" if evidence.outdated == 1 else "were"
    return f"; {_count(evidence.outdated, 'pod')} {verb} made from an earlier generation: make anew what should follow"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _conditions(verdicts: Mapping[str, Verdict], before: Object, now: datetime) -> list[dict[str, Any]]:
    return [_dated(kind, verdicts[kind], before, now) for kind in _TYPES]


def _dated(kind: str, verdict: Verdict, before: Object, now: datetime) -> dict[str, Any]:
    previous = _condition(before, kind)
    unchanged = previous.get("status") == verdict.state and previous.get("lastTransitionTime")
    return {
        "type": kind,
        "status": verdict.state,
        "reason": verdict.reason,
        "message": verdict.message,
        "lastTransitionTime": unchanged or now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _status_of(pipeline: Object) -> Object:
    status = pipeline.get("status")
    return status if isinstance(status, Mapping) else {}


def _condition(status: Object, kind: str) -> Object:
    return next((c for c in status.get("conditions") or () if c.get("type") == kind), {})


def _comparable(status: Object) -> dict[str, Any]:
    conditions = sorted(status.get("conditions") or (), key=lambda c: str(c.get("type")))
    return {**status, "conditions": conditions}


def _subclasses(error: type[CheckpointError]) -> set[str]:
    return {error.reason}.union(*(_subclasses(child) for child in error.__subclasses__()))


_SOURCE_REASONS = frozenset().union(
    *(_subclasses(error) for error in (CheckpointSourceError, CheckpointLoadError, CheckpointValidationError))
)
