"""Why one pod, or the pods of one template, have their loader or not, and what that loader did. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from preheat_operator.admission import LABELLED
from preheat_operator.api import LABEL
from preheat_operator.injection import cautions
from preheat_operator.plugin.installation import caveats
from preheat_operator.plugin.loaders import Given, Loader, given_to, loader_of, ran
from preheat_operator.plugin.rulings import NO_LABEL, Known, Ruling, Verdict, ruling
from preheat_operator.plugin.subjects import Subject

Object = Mapping[str, Any]


@dataclass(frozen=True)
class PipelineFacts:
    """A pipeline as it is now."""

    name: str
    generation: int | None = None
    ready: str | None = None  # status, reason and message of its condition
    reason: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class Explanation:
    """Whether and why, and with what."""

    subject: str
    namespace: str
    exists: bool  # a pod that was created; else one that is to be
    verdict: Verdict
    rule: str
    message: str
    remedy: str = ""
    path: str = ""  # of the template in its workload
    workload: str = ""  # that made the pod, and as a part of which it is explained
    pipeline: PipelineFacts | None = None
    given: Given | None = None
    settings_from: str = ""  # where image and resources of a loader to be are known from
    loader: Loader | None = None
    cautions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def fine(self) -> bool:
        """Whether the pod has what it asks for."""
        if self.verdict == "injected":
            return self.loader is None or self.loader.phase != "failed"
        return self.rule == NO_LABEL


def explain(subject: Subject, known: Known) -> Explanation:
    """The explanation of one pod, or of the pods of one template."""
    if subject.exists and loader_of(subject.pod):
        return _injected(subject, known)
    found = ruling(subject, known)
    if subject.exists and found.verdict != "ignored":
        return _explanation(subject, known, _missed(subject, known, found))
    made = _explanation(subject, known, found)
    if found.pod is None:
        return made
    told = tuple(cautions(found.pod))
    return replace(made, given=given_to(found.pod), settings_from=known.installation.origin, cautions=told)


def _injected(subject: Subject, known: Known) -> Explanation:
    given = given_to(subject.pod)
    name = given.pipeline or subject.label or ""
    facts, message = _facts(name, known), f"it carries the loader of pipeline {name}"
    if subject.label is None:
        message += f"; its label {LABEL} was taken away later, which changes nothing"
    made = _explanation(subject, known, Ruling("injected", LABELLED, message))
    outdated = facts.generation and given.generation and facts.generation != given.generation
    news = (f"the pipeline has changed since, to generation {facts.generation}",) if outdated else ()
    return replace(made, pipeline=facts, given=given, loader=ran(subject.pod), cautions=news, notes=())


def _missed(subject: Subject, known: Known, now: Ruling) -> Ruling:
    """A labelled pod that runs without its loader; `now` is what becomes of one like it."""
    runs = f"it carries the label {LABEL} and runs without the loader"
    again = f"Make the pod anew: {_anew(subject)}"
    if now.verdict != "injected":
        would = "one made now would be refused" if now.verdict == "refused" else "as would one made now"
        remedy = f"{now.remedy}. {again}" if now.remedy else again
        return Ruling("missed", now.rule, f"{runs}; {would}: {now.message}", remedy)
    made = str(subject.pod["metadata"].get("creationTimestamp") or "")
    since = known.installation.created
    if made and made < since:
        return Ruling("missed", "MadeBefore", f"{runs}: it was made at {made}, Preheat was installed at {since}", again)
    why = "it was made while Preheat was not installed, or got its label later; only pods that are created are seen"
    return Ruling("missed", "NotSeen", f"{runs}: {why}", again)


def _anew(subject: Subject) -> str:
    owner = list(subject.owners)[-1] if subject.owners else ""
    if owner.partition("/")[0] in ("deployment", "statefulset", "daemonset"):
        return f"kubectl -n {subject.namespace} rollout restart {owner}"
    return f"delete {owner or 'it'} and create it again"


def _facts(name: str, known: Known) -> PipelineFacts:
    entry = (known.pipelines or {}).get(name)
    if entry is None:
        return PipelineFacts(name)
    conditions = (entry.resource.get("status") or {}).get("conditions") or ()
    ready: Object = next((each for each in conditions if each.get("type") == "Ready"), {})
    generation = entry.resource["metadata"].get("generation")
    return PipelineFacts(name, generation, ready.get("status"), ready.get("reason"), ready.get("message"))


def _explanation(subject: Subject, known: Known, found: Ruling) -> Explanation:
    asked = found.verdict != "ignored"
    return Explanation(
        subject.name,
        subject.namespace,
        subject.exists,
        found.verdict,
        found.rule,
        found.message,
        found.remedy,
        subject.path,
        pipeline=_facts(subject.label, known) if asked and subject.label else None,
        notes=(*known.notes, *caveats(known.installation)) if asked else (),
    )
