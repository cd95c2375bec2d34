"""Processes that died on a checkpoint of the run that they went on from: seen in pods, kept in the status, told again.

A process that can leave no mark beside its run leaves in its container's termination message what it began from
(`preheat.resume.last_words`): there it is when the container ended otherwise than in order. Whether Kubernetes ended
it is seen here; whether a death still counts is decided by the loader, which knows the run (`preheat.resume.deaths`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from preheat.resume import deaths as told
from preheat.resume.last_words import words
from preheat.resume.settings import Resume
from preheat_operator.foreign import Object, duration, mapping, mappings, printable
from preheat_operator.termination import Termination, terminations

#: On a pipeline: a time, RFC 3339. Who began until then does not count.
FORGET = "preheat.dev/forget-deaths"
KEPT_DEATHS = 50
#: Of the variable that tells them; a resource's status may hold it, too.
_LONGEST = 4000
_ID = 64
#: Exit codes of a container that ended in order: by itself, or by the SIGTERM that asked it to.
_ORDERLY = (0, 143)
#: What the kubelet says of a container that it has lost sight of: the node has failed, and not the training.
_LOST = ("ContainerStatusUnknown", "Unknown")


@dataclass(frozen=True)
class Death:
    """One training that began from a checkpoint and died; its ranks die together."""

    run: str
    checkpoint: str
    saved: float  # when the checkpoint was: seconds since the epoch, by the clock of its place
    start: str  # the same for all ranks
    began: float  # seconds since the epoch
    pod: str  # of the rank that ended first
    time: str  # when its container ended
    reason: str


def deaths_in(pod: Object) -> tuple[Death, ...]:
    """Those that the pod's status still tells of; of what anybody may have written, nothing raises."""
    metadata, status = mapping(pod, "metadata"), mapping(pod, "status")
    asked, name = list(_asked_to_go(metadata, status)), str(metadata.get("name", ""))
    found = [
        _death(end, name)
        for container in mappings(status.get("containerStatuses"))
        for end in terminations(container)
        if end.code not in _ORDERLY and end.reason not in _LOST and all(end.time < time for time in asked)
        if not (status.get("reason") and _is_last(end, container))  # of the pod: Evicted, DeadlineExceeded
    ]
    return tuple(each for each in found if each)


def deaths_of(status: Object) -> list[Death]:
    """Those that a pipeline's status holds, newest first."""
    names = [field.name for field in fields(Death)]
    entries = mappings(status.get("deaths"))
    return [Death(**{name: each[name] for name in names}) for each in entries if all(name in each for name in names)]


def kept(seen: Iterable[Death], remembered: Object, decisions: Iterable[Object], forgotten: float) -> list[Death]:
    """What a status is to hold, newest first; `remembered` is the present status.

    Each training once, however often and by whichever of its ranks it was told. Not what was forgotten, nor what a
    later loader's decision has left behind: it took another checkpoint, and had no need to pass this one over.
    """
    found: dict[tuple[str, str], Death] = {}
    for each in (*deaths_of(remembered), *seen):
        key = (each.run, each.start)
        found[key] = min(found.get(key, each), each, key=_order)
    latest = _latest([*decisions, mapping(remembered, "resume")])
    left = [each for each in found.values() if each.began > forgotten and not _overtaken(each, latest)]
    return sorted(left, key=_order, reverse=True)[:KEPT_DEATHS]


@dataclass(frozen=True)
class Poisoned:
    """A checkpoint on which so many have died that pods pass it over."""

    deaths: Sequence[Death]  # newest first

    def line(self, pipeline: str) -> str:
        """What it is, why, and what lifts it."""
        last, count = self.deaths[0], len(self.deaths)
        died = f"{count} processes died on it, the last one" if count > 1 else "a process died on it,"
        return (
            f"{last.checkpoint} of the run in {last.run} is poisoned: {died} in pod {last.pod} ({last.reason}). "
            f"New pods pass it over until one beyond it is saved, or `kubectl preheat forget {pipeline}` lifts that"
        )


def poisoned(pipeline: Object, deaths: Iterable[Death]) -> list[Poisoned]:
    """The checkpoints that new pods pass over for these deaths, unless one beyond them was saved."""
    limit = mapping(mapping(pipeline, "spec"), "resume").get("maxFailures", Resume.max_failures)
    return [Poisoned(group) for group in by_checkpoint(deaths) if limit and len(group) >= limit]


def by_checkpoint(deaths: Iterable[Death]) -> list[list[Death]]:
    """Those on each checkpoint, in the same order; one that was saved anew is another."""
    groups: dict[tuple[str, str, float], list[Death]] = {}
    for each in deaths:
        groups.setdefault((each.run, each.checkpoint, each.saved), []).append(each)
    return list(groups.values())


def for_loaders(resource: Object) -> str:
    """The variable that tells a new pod's loader; empty where there is nothing to tell."""
    deaths, (forgotten, _) = deaths_of(mapping(resource, "status")), forgotten_until(resource)
    known = (told.Death(each.run, each.checkpoint, each.saved, each.began) for each in deaths)
    document = told.Deaths(tuple(known), forgotten)
    if not document.known and not forgotten:
        return ""
    while len(text := json.dumps(document.to_json(), separators=(",", ":"))) + text.count("$") > _LONGEST:
        document = replace(document, known=document.known[:-1])  # the oldest
    return text


def forgotten_until(resource: Object) -> tuple[float, str]:
    """The time in the pipeline's annotation, in seconds since the epoch; and what is wrong with it."""
    text = mapping(mapping(resource, "metadata"), "annotations").get(FORGET)
    if text is None:
        return 0.0, ""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return 0.0, f"annotation {FORGET} is {text!r:.60}, which is no time such as 2026-03-01T12:00:00Z"
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp(), ""


def _death(end: Termination, pod: str) -> Death | None:
    said = words(end.message)
    run, checkpoint, start = (said.get(key) for key in ("run", "checkpoint", "start"))
    saved, began = duration(said.get("saved")), duration(said.get("began"))
    if not (isinstance(run, str) and isinstance(checkpoint, str) and isinstance(start, str)):
        return None
    if saved is None or began is None or not end.time:
        return None
    named = {"run": printable(run), "checkpoint": printable(checkpoint), "start": printable(start, _ID)}
    reason = f"exit code {end.code}" if end.reason in ("", "Error") else printable(end.reason, _ID)
    return Death(**named, saved=saved, began=began, pod=pod, time=end.time, reason=reason)


def _is_last(end: Termination, container: Object) -> bool:
    """Whether the container was not started again after it."""
    return mapping(mapping(container, "state"), "terminated").get("finishedAt") == end.time


def _asked_to_go(metadata: Object, status: Object) -> Iterator[str]:
    """When Kubernetes has begun to end the pod: it was deleted, preempted or evicted."""
    if deadline := metadata.get("deletionTimestamp"):
        yield _before(str(deadline), metadata.get("deletionGracePeriodSeconds"))
    for condition in mappings(status.get("conditions")):
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            yield str(condition.get("lastTransitionTime") or "")


def _before(deadline: str, seconds: Any) -> str:
    """The time of a deletion, of which the object holds when it has to be done."""
    try:
        asked = datetime.fromisoformat(deadline) - timedelta(seconds=seconds or 0)
    except (ValueError, TypeError, OverflowError):
        return ""  # before everything
    return asked.strftime("%Y-%m-%dT%H:%M:%SZ")


def _order(death: Death) -> tuple[Any, ...]:
    return death.time, death.pod, *vars(death).values()


def _latest(decisions: Iterable[Object]) -> Mapping[str, Object]:
    """Of each run the last decision of a loader."""
    by_time = sorted((each for each in decisions if each.get("run")), key=lambda each: str(each.get("time", "")))
    return {str(each["run"]): each for each in by_time}


def _overtaken(death: Death, latest: Mapping[str, Object]) -> bool:
    decision = latest.get(death.run)
    if decision is None or decision.get("morePassed") or str(decision.get("time", "")) <= death.time:
        return False
    passed = [each.get("checkpoint") for each in mappings(decision.get("passed"))]
    return death.checkpoint not in (*passed, decision.get("checkpoint"))
