"""The conditions of a pipeline: what its evidence means, in a word for programs and a sentence for people."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from preheat.errors import (
    CheckpointError,
    CheckpointLoadError,
    CheckpointSourceError,
    CheckpointValidationError,
)
from preheat_operator.evidence import Evidence
from preheat_operator.foreign import Object, printable
from preheat_operator.memory import condition
from preheat_operator.quantity import human_bytes
from preheat_operator.source_check import check_said
from preheat_operator.uploads import UNSENT, heading

State = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Verdict:
    """One condition without its clock."""

    state: State
    reason: str
    message: str


def conditions(evidence: Evidence, before: Object, now: datetime) -> list[dict[str, Any]]:
    """All of them, each with the time since when it holds; `before` is the present status, `now` is in UTC."""
    verdicts = _verdicts(evidence)
    if evidence.uploads:
        verdicts["Uploaded"] = Verdict(*evidence.uploads.verdict(condition(before, "Uploaded")))
    return [_dated(kind, verdict, before, now) for kind, verdict in verdicts.items()]


def _verdicts(evidence: Evidence) -> dict[str, Verdict]:
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


def _ready(evidence: Evidence) -> Verdict:
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
    resumed = f"{_began(evidence.resume)}{_poisoned(evidence)}"
    what = f"{_taken(evidence)} {by}{resumed}{_outdated(evidence)}{_warnings(evidence)}"
    return Verdict("True", "Loaded", printable(what, 4096))


def _taken(evidence: Evidence) -> str:
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


def _poisoned(evidence: Evidence) -> str:
    """The checkpoint of the last of those who died, where they were too many; the field has all."""
    return "".join(f"; {line}" for line in evidence.poisoned[:1])


def _unloaded(evidence: Evidence) -> Verdict:
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


def _resolved(evidence: Evidence) -> Verdict:
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


def _warnings(evidence: Evidence) -> str:
    """The first of them: the fields have all."""
    lost = evidence.uploads.lost if evidence.uploads else None
    said = "has not sent" if lost and heading(lost) == UNSENT else "may not have sent"
    unsent = [f"pod {lost['pod']} {said} all that it saved"] if lost else []
    still = [f"the loader of pod {pod} receives nothing" for pod in evidence.loaders.stalled[:1]]
    warnings = (
        *unsent,
        *still,
        *evidence.cautions,
        *evidence.check.get("warnings", ()),
        *evidence.source.get("warnings", ()),
    )
    return "".join(f"; warning: {each}" for each in warnings[:1])


def _outdated(evidence: Evidence) -> str:
    if not evidence.outdated:
        return ""
    verb = "was" if evidence.outdated == 1 else "were"
    return f"; {_count(evidence.outdated, 'pod')} {verb} made from an earlier generation: make anew what should follow"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _dated(kind: str, verdict: Verdict, before: Object, now: datetime) -> dict[str, Any]:
    previous = condition(before, kind)
    unchanged = previous.get("status") == verdict.state and previous.get("lastTransitionTime")
    return {
        "type": kind,
        "status": verdict.state,
        "reason": verdict.reason,
        "message": verdict.message,
        "lastTransitionTime": unchanged or now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _subclasses(error: type[CheckpointError]) -> set[str]:
    return {error.reason}.union(*(_subclasses(child) for child in error.__subclasses__()))


_SOURCE_REASONS = frozenset().union(
    *(_subclasses(error) for error in (CheckpointSourceError, CheckpointLoadError, CheckpointValidationError))
)
