"""A pipeline and its pods as `kubectl preheat status` shows them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from preheat_operator.plugin.loaders import Loader, given_to, loader_of, ran
from preheat_operator.plugin.spelling import as_json

Object = Mapping[str, Any]


@dataclass(frozen=True)
class PodLine:
    """One labelled pod."""

    name: str
    created: str
    loader: Loader  # of phase missed, where the pod has none
    generation: int | None = None  # of the pipeline, that it was made from
    progress: Object | None = None  # of a loader that runs, as the status has it


@dataclass(frozen=True)
class PipelineView:
    """A pipeline as the API server holds it, and its pods, newest first; None: they may not be read."""

    name: str
    namespace: str
    generation: int
    status: Object
    pods: tuple[PodLine, ...] | None

    def differs(self, other: PipelineView) -> bool:
        """Whether there is more news than that time has passed."""
        return self._news() != other._news()

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        pods = None if self.pods is None else [as_json(each) for each in self.pods]
        about = {"name": self.name, "namespace": self.namespace, "generation": self.generation}
        return {**about, "status": self.status, "pods": pods}

    def _news(self) -> tuple[Any, ...]:
        pods = [(each.name, each.loader.phase, each.loader.runs, each.loader.reason) for each in self.pods or ()]
        return self.generation, self.status, pods


def view(pipeline: Object, pods: Iterable[Object] | None, now: datetime | None = None) -> PipelineView:
    """What is shown of a pipeline; `now` is in UTC."""
    metadata = pipeline["metadata"]
    now, status = now or datetime.now(UTC), pipeline.get("status") or {}
    running = {each["pod"]: each for each in (status.get("progress") or {}).get("loaders") or ()}
    lines = None if pods is None else sorted((_line(pod, running, now) for pod in pods), key=_age, reverse=True)
    return PipelineView(
        metadata["name"],
        metadata["namespace"],
        int(metadata.get("generation", 0)),
        status,
        None if lines is None else tuple(lines),
    )


def _line(pod: Object, running: Mapping[str, Object], now: datetime) -> PodLine:
    metadata, loader = pod["metadata"], ran(pod, now)
    generation = given_to(pod).generation if loader_of(pod) else None
    progress = running.get(metadata["name"]) if loader.phase == "loading" else None
    return PodLine(metadata["name"], str(metadata.get("creationTimestamp") or ""), loader, generation, progress)


def _age(line: PodLine) -> tuple[str, str]:
    return line.created, line.name
