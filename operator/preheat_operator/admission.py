"""What becomes of one labelled pod: created with its loader, or refused with the text that its author reads. Pure.

The webhook answers with it; `kubectl preheat` says beforehand, and afterwards, what the webhook answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from preheat.errors import CheckpointError
from preheat_operator.api import LABEL, Pipeline
from preheat_operator.injection import Object, inject
from preheat_operator.refusal import PodRefusedError
from preheat_operator.settings import Settings
from preheat_operator.source_check import last_check, pin_of

#: The rule by which a pod is injected; those by which it is refused are the reasons of errors.
LABELLED = "Labelled"


class PipelineMissingError(PodRefusedError):
    """The pod's namespace has no pipeline of the name in its label."""

    reason = "PipelineMissing"


class PipelineUnusableError(PodRefusedError):
    """The pod's pipeline does not pass its own checks."""

    reason = "PipelineInvalid"


@dataclass(frozen=True)
class Entry:
    """One resource as the API server holds it; parsed when a pod first asks for it."""

    resource: Mapping[str, Any]

    @property
    def pin(self) -> dict[str, Any] | None:
        """The version of the source that a check has found, for all pods."""
        return pin_of(self.resource)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the author of every pod should know of the pipeline, as its status has it."""
        status = self.resource.get("status") or {}
        last = last_check(int(self.resource["metadata"].get("generation", 0)), status)
        return tuple(map(str, last.get("warnings") or ()))

    def with_status(self, resource: Mapping[str, Any]) -> Entry:
        """The entry of the same spec with another status, or other annotations: what was parsed stays parsed."""
        entry = Entry(resource)
        if "pipeline" in vars(self):
            vars(entry)["pipeline"] = self.pipeline.knowing(resource)
        return entry

    @cached_property
    def pipeline(self) -> Pipeline:
        """The parsed pipeline; raises CheckpointConfigError when its spec cannot be used."""
        return Pipeline.parse(self.resource)


def admit(pod: Mapping[str, Any], namespace: str, entry: Entry, settings: Settings) -> Object:
    """The pod of this namespace as it is created with the pipeline of its label; raises PodRefusedError."""
    name = pod["metadata"]["labels"][LABEL]
    try:
        pipeline, pin = entry.pipeline, entry.pin
    except CheckpointError as error:
        raise PipelineUnusableError(f"CheckpointPipeline {namespace}/{name} cannot be used: {error}") from error
    try:
        return inject(pod, pipeline, settings, pin)
    except CheckpointError as error:
        raise PodRefusedError(f"CheckpointPipeline {namespace}/{pipeline.name}: {error}") from error


def missing(namespace: str, name: str, known: Iterable[str]) -> PipelineMissingError:
    """The refusal of a pod whose label names none of the `known` pipelines of its namespace."""
    there = listed(known)
    remedy = f"There are: {there}" if there else "There is none: create it first"
    return PipelineMissingError(
        f"label {LABEL}: namespace {namespace} has no CheckpointPipeline {name!r}", remedy=remedy
    )


def listed(names: Iterable[str], most: int = 10) -> str:
    """Names for a sentence, cut after `most`."""
    shown = list(names)
    rest = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + rest
