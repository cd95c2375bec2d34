"""The rules by which a pod that is created gets its loader or not, in the order in which they decide. Pure.

Whether the API server asks the webhook is read from its configuration; what the webhook answers is its own decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from preheat_operator.admission import LABELLED, Entry, PipelineMissingError
from preheat_operator.api import LABEL
from preheat_operator.plugin.asking import EXCLUDED, passed_by
from preheat_operator.plugin.installation import Installation
from preheat_operator.plugin.subjects import Subject, answered
from preheat_operator.refusal import PodRefusedError

Object = Mapping[str, Any]
Verdict = Literal["injected", "refused", "missed", "ignored", "unknown"]

NO_LABEL = "NoLabel"


@dataclass(frozen=True)
class Known:
    """What is known of the cluster around a pod; None is what could not be read."""

    installation: Installation = field(default_factory=Installation)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    pipelines: Mapping[str, Entry] | None = None  # of the pod's namespace
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ruling:
    """What becomes of a pod, by which rule, why, and what its author can do about it."""

    verdict: Verdict
    rule: str
    message: str
    remedy: str = ""
    pod: Object | None = None  # as it is created, when it is injected


def ruling(subject: Subject, known: Known) -> Ruling:
    """What becomes of such a pod when it is created now."""
    return _unlabelled(subject, known) or _unasked(subject, known) or _answered(subject, known)


def _unlabelled(subject: Subject, known: Known) -> Ruling | None:
    if subject.label is not None:
        return None
    metadata = subject.pod.get("metadata") or {}
    what = f"its pod template ({subject.path})" if subject.path else "the pod"
    lacks = f"{what} has no label {LABEL}"
    for owner, its in {**subject.around, **subject.owners}.items():
        if LABEL in (its.get("labels") or {}):
            within = f"{subject.path}." if owner in subject.around else f"the pod template of {owner}: "
            message = f"{lacks}; {owner} has it among its own labels, where nobody looks"
            return Ruling("ignored", "LabelOnWorkload", message, f"Move it to {within}metadata.labels")
    if LABEL in (metadata.get("annotations") or {}):
        return Ruling("ignored", "LabelIsAnnotation", f"{lacks}, but an annotation of that name", "Make it a label")
    if near := get_close_matches(LABEL, metadata.get("labels") or (), n=1, cutoff=0.8):
        return Ruling("ignored", "LabelMisspelt", f"{lacks}, but {near[0]}", f"Write {LABEL}")
    names = f": {', '.join(sorted(known.pipelines))}" if known.pipelines else ""
    remedy = f"For a checkpoint, have it name a CheckpointPipeline of its namespace{names}"
    return Ruling("ignored", NO_LABEL, f"{lacks}: Preheat leaves it alone", remedy)


def _unasked(subject: Subject, known: Known) -> Ruling | None:
    why = passed_by(known.installation, subject.pod, known.namespace_labels)
    if why is None:
        return None
    if why.refused:
        return Ruling("refused", why.rule, why.message, why.remedy)
    # What is left alone is left alone by the policy, too.
    required = why.rule != EXCLUDED and known.installation.requires_loader
    if required:
        message = f"{why.message}; the chart's policy refuses labelled pods that got no loader"
        return Ruling("refused", why.rule, message, why.remedy)
    unsure = "; or it is refused, if the chart's policy is there" if required is None else ""
    return Ruling("missed", why.rule, f"{why.message}{unsure}", why.remedy)


def _unprepared(subject: Subject, known: Known) -> Ruling | None:
    """A policy can use of a pipeline only what the controller has written into its status."""
    entry = (known.pipelines or {}).get(subject.label or "")
    if entry is None or known.installation.policy is None or known.installation.webhook:
        return None
    status, generation = entry.resource.get("status") or {}, entry.resource["metadata"].get("generation")
    if status.get("injection") and status.get("observedGeneration") == generation:
        return None
    message = (
        f"the controller has not seen pipeline {subject.label} as it is now, and the policy injects from its status"
    )
    return Ruling("refused", "PipelineUnseen", message, "Try again; if it lasts, see whether the controller runs")


def _answered(subject: Subject, known: Known) -> Ruling:
    """What the webhook answers."""
    name = subject.label or ""
    if known.pipelines is None:
        message = f"label {LABEL}: {name}; whether there is such a pipeline could not be read"
        return Ruling("unknown", "PipelineUnreadable", message)
    try:
        pod = answered(subject.pod, subject.namespace, known.pipelines, known.installation.settings)
    except PipelineMissingError as error:
        near = get_close_matches(name, known.pipelines, n=1)
        remedy = f"Did you mean {near[0]}? {error.remedy}" if near else error.remedy
        return Ruling("refused", error.reason, str(error.args[0]), remedy)
    except PodRefusedError as error:
        return Ruling("refused", error.reason, str(error.args[0]), error.remedy)
    return _unprepared(subject, known) or Ruling("injected", LABELLED, f"label {LABEL}: {name}", pod=pod)
