"""What one injected pod was given, and what its loader did there, read from the pod alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from preheat_operator.loader_container import LOADER, described_in
from preheat_operator.observation import observe

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Given:
    """What a loader was told, and who receives what it brings."""

    pipeline: str | None
    generation: int | None
    version: str | None  # of the source, that the loader is held to; None: what it finds
    image: str
    containers: tuple[str, ...]
    shim: str


@dataclass(frozen=True)
class Loader:
    """What a loader did so far."""

    phase: str
    outcome: str | None = None  # of one that is done: loaded, or reused
    seconds: float | None = None
    fetched_bytes: int | None = None
    bytes_per_second: int | None = None
    uri: str | None = None
    version: str | None = None
    runs: int = 0
    reason: str | None = None
    message: str | None = None
    remedy: str | None = None


def loader_of(pod: Object) -> Object | None:
    """The loader among a pod's init containers."""
    containers = (pod.get("spec") or {}).get("initContainers") or ()
    return next((each for each in containers if each.get("name") == LOADER), None)


def given_to(pod: Object) -> Given:
    """What an injected pod was given."""
    loader = loader_of(pod) or {}
    told = described_in(loader)
    receivers = tuple(each["name"] for each in pod["spec"]["containers"] if "PREHEAT_BUNDLE" in _values(each))
    return Given(
        told.get("name"),
        told.get("generation"),
        (told.get("pin") or {}).get("version"),
        str(loader.get("image")),
        receivers,
        str(_values(loader).get("PREHEAT_SHIM")),
    )


def ran(pod: Object, now: datetime | None = None) -> Loader:
    """What the loader of an injected pod did; `now` is in UTC."""
    report, status = observe(pod), _status(pod)
    success = report.success if report.phase == "loaded" else None
    failure = None if success else report.failure
    source = success.source if success else {}
    told = success.seconds if success else None
    return Loader(
        phase=report.phase,
        outcome=success.outcome if success else None,
        seconds=_seconds(status, now or datetime.now(UTC)) if told is None else told,
        fetched_bytes=success.fetched_bytes if success else None,
        bytes_per_second=success.rate if success else None,
        uri=source.get("uri"),
        version=source.get("version"),
        runs=1 + int(status.get("restartCount") or 0) if status.get("state") else 0,
        reason=failure.reason if failure else None,
        message=failure.message if failure else None,
        remedy=failure.remedy if failure else None,
    )


def _status(pod: Object) -> Object:
    statuses = (pod.get("status") or {}).get("initContainerStatuses") or ()
    return next((each for each in statuses if each.get("name") == LOADER), {})


def _seconds(status: Object, now: datetime) -> float | None:
    """How long the last run took, as the kubelet has it, or the present one has taken."""
    state = status.get("state") or {}
    ended = state.get("terminated") or (status.get("lastState") or {}).get("terminated")
    if running := state.get("running"):
        return max(0.0, (now - _moment(running["startedAt"])).total_seconds())
    if not ended or not ended.get("startedAt") or not ended.get("finishedAt"):
        return None
    return (_moment(ended["finishedAt"]) - _moment(ended["startedAt"])).total_seconds()


def _moment(time: str) -> datetime:
    return datetime.fromisoformat(time)


def _values(container: Object) -> Mapping[str, Any]:
    return {each["name"]: each.get("value") for each in container.get("env") or ()}
