"""What one run of a loader came to: a bundle and how it was made, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from preheat.errors import CheckpointError
from preheat_operator.foreign import Object, duration, identifier, is_count, mapping, mappings, printable
from preheat_operator.termination import Termination

SOURCE_TEXTS = ("uri", "version", "format")
SOURCE_NUMBERS = ("sizeBytes", "tensors", "parameters", "selectedBytes", "outputBytes")
KEPT_WARNINGS = 8
KEPT_MERGED = 8
KEPT_PASSED = 8
RESUMING = ("warmStart", "weightsOnly")
#: The loader's outcomes: it fetched a bundle, found one on the volume, or failed where `onFailure: Continue` goes on.
FETCHED, REUSED, CONTINUED = "loaded", "reused", "continued"
#: Exit codes of a container that a signal ended.
KILLED = (137, 143)

#: What the kubelet and the node report when the loader could not speak for itself, and what to do.
REMEDIES = MappingProxyType(
    {
        "OOMKilled": "Raise limits.memory under spec.loader.resources",
        "ImagePullBackOff": "Check the installation's loader image and the pull secrets of the pod",
        "ErrImagePull": "Check the installation's loader image and the pull secrets of the pod",
        "ErrImageNeverPull": "Put the loader image on the node, or let it be pulled",
        "InvalidImageName": "Check the installation's loader image",
        "CreateContainerConfigError": "Check the Secrets and ConfigMaps that the pod names",
        "Evicted": "Give spec.volume a claim with room for the checkpoint, or the node more disk",
    }
)
STUCK = frozenset(REMEDIES) | {"CreateContainerError", "RunContainerError"}


@dataclass(frozen=True)
class Failure:
    """One run of a loader that did not end well."""

    time: str  # RFC 3339, UTC
    reason: str
    message: str
    remedy: str
    run: int = 0  # the container's restart count, so that two runs are told apart


@dataclass(frozen=True)
class Success:
    """One run of a loader that left a bundle; everything but its end is there only if it reported it."""

    time: str
    source: Object
    fetched_bytes: int | None = None
    run: int = 0
    seconds: float | None = None
    outcome: Literal["loaded", "reused"] | None = None
    resume: Object = field(default_factory=dict)  # what was decided where the pipeline resumes a run

    @property
    def rate(self) -> int | None:
        """Bytes a second, over the whole run."""
        return int(self.fetched_bytes / self.seconds) if self.fetched_bytes and self.seconds else None


def succeeded(end: Termination) -> bool:
    """Whether a bundle was left; with `onFailure: Continue` a loader that failed ends well, too."""
    return end.code == 0 and not _went_on(end)


def success_of(end: Termination) -> Success:
    """What a run that left a bundle has told."""
    report = end.report
    fetched, outcome = report.get("fetchedBytes"), report.get("outcome")
    return Success(
        end.time,
        _source(report),
        fetched if is_count(fetched) else None,
        end.run,
        duration(report.get("seconds")),
        outcome if outcome in (FETCHED, REUSED) else None,
        _resume(mapping(report, "resume")),
    )


def failure_of(end: Termination, created: str) -> Failure:
    """Why a run left no bundle; `created` is when its pod was made."""
    report, told = end.report, identifier(end.report.get("reason"))
    if end.reason == "OOMKilled":
        reason, message = end.reason, "the loader was killed because it needed more memory than its limit"
    elif told:
        reason, message = told, printable(report.get("message") or "the loader gave no message")
    elif end.code in KILLED:
        reason, message = "Killed", f"the loader was killed (exit code {end.code})"
    else:
        reason = REASON_OF_CODE.get(end.code, "Failed") if end.code is not None else "Failed"
        message = printable(end.message or f"the loader ended with exit code {end.code} and no message")
    message = printable(f"trains from its initial weights: {message}") if _went_on(end) else message
    remedy = printable(report.get("remedy") or REMEDIES.get(reason, ""))
    return Failure(end.time or created, reason, message, remedy, end.run)


def stuck(container: Object, status: Object, created: str) -> Failure | None:
    """A loader that never ran and will not by itself: its image, its configuration, or the whole pod failed."""
    waiting = mapping(mapping(container, "state"), "waiting")
    reason, message = waiting.get("reason"), waiting.get("message")
    if not isinstance(reason, str) or reason not in STUCK:
        loaded = mapping(mapping(container, "state"), "terminated").get("exitCode") == 0
        if status.get("phase") != "Failed" or loaded:
            return None
        reason, message = identifier(status.get("reason")) or "PodFailed", status.get("message")
    text = printable(message or "the pod ended before its loader did")
    return Failure(_scheduled(status) or created, str(reason), text, REMEDIES.get(str(reason), ""))


def _went_on(end: Termination) -> bool:
    return end.report.get("outcome") == CONTINUED


def _source(report: Object) -> Object:
    """What was found at the source, without what is no text or number."""
    told = mapping(report, "source")
    source: dict[str, Any] = {}
    source.update({key: printable(told[key]) for key in SOURCE_TEXTS if isinstance(told.get(key), str)})
    source.update({key: told[key] for key in SOURCE_NUMBERS if is_count(told.get(key))})
    if merged := [_merged(each) for each in mappings(told.get("merged"))[:KEPT_MERGED]]:
        source["merged"] = merged
    if warnings := report.get("warnings"):
        listed = warnings if isinstance(warnings, list) else [warnings]
        source["warnings"] = [printable(each) for each in listed[:KEPT_WARNINGS]]
    return source


def _merged(told: Object) -> Object:
    """One of the checkpoints that were merged."""
    texts = {key: printable(told[key]) for key in ("uri", "version") if isinstance(told.get(key), str)}
    return texts | {key: told[key] for key in ("tensors",) if is_count(told.get(key))}


def _resume(told: Object) -> Object:
    """Which checkpoint of its run a pod goes on from, and which were passed over; empty: it was not told."""
    if not isinstance(told.get("run"), str) or told.get("strategy") not in RESUMING:
        return {}
    passed = mappings(told.get("passed"))
    kept = passed[:KEPT_PASSED]
    more, checkpoint = told.get("morePassed"), told.get("checkpoint")
    left = (more if is_count(more) else 0) + len(passed) - len(kept)
    return {
        "run": printable(told["run"]),
        "strategy": told["strategy"],
        **({"checkpoint": printable(checkpoint)} if isinstance(checkpoint, str) else {}),
        "passed": [{key: printable(each.get(key, "")) for key in ("checkpoint", "why")} for each in kept],
        **({"morePassed": left} if left else {}),
    }


def _scheduled(status: Object) -> str:
    for condition in mappings(status.get("conditions")):
        if condition.get("type") == "PodScheduled":
            return str(condition.get("lastTransitionTime") or "")
    return ""


def _reasons(error: type[CheckpointError]) -> dict[object, str]:
    """The reason of each exit code that the loader knows; errors of the operator's own say nothing of a container."""
    found: dict[object, str] = {error.exit_code: error.reason}
    for child in error.__subclasses__():
        if child.__module__ == CheckpointError.__module__:
            found |= {code: reason for code, reason in _reasons(child).items() if code not in found}
    return found


REASON_OF_CODE: Mapping[object, str] = MappingProxyType(_reasons(CheckpointError))
#: What a failure's reason can be, unless somebody else than the loader wrote it.
REASONS = frozenset(REASON_OF_CODE.values()) | STUCK | {"Killed", "PodFailed"}
