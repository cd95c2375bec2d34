"""What one labelled pod says about its loader, read from the pod alone.

Everything in a pod's status may be missing, cut or written by somebody else: nothing here raises, and what leaves here
is short, printable and of the type that the resource's status declares.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, TypeGuard

from preheat.errors import CheckpointError
from preheat_operator.loader_container import LOADER, PROGRESS_PORT, PROGRESS_VARIABLE, described_in, variable_in

Phase = Literal["missed", "loading", "loaded", "continued", "failed"]
Object = Mapping[str, Any]

SOURCE_TEXTS = ("uri", "version", "format")
SOURCE_NUMBERS = ("sizeBytes", "tensors", "parameters", "selectedBytes", "outputBytes")
KEPT_WARNINGS = 8
KEPT_MERGED = 8
KEPT_PASSED = 8
RESUMING = ("warmStart", "weightsOnly")
#: The loader's outcomes: it fetched a bundle, found one on the volume, or failed where `onFailure: Continue` goes on.
FETCHED, REUSED, CONTINUED = "loaded", "reused", "continued"
_TEXT_LIMIT = 1024
_KILLED = (137, 143)
_CENTURY = 3.2e9  # seconds

# What the kubelet and the node report when the loader could not speak for itself.
_REMEDIES = MappingProxyType(
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
_STUCK = frozenset(_REMEDIES) | {"CreateContainerError", "RunContainerError"}


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


@dataclass(frozen=True)
class PodReport:
    """One labelled pod, reduced to what status, Events and metrics need."""

    name: str
    uid: str
    created: str
    phase: Phase
    pipeline_uid: str | None = None
    generation: int | None = None  # of the pipeline the loader was injected from
    success: Success | None = None
    failure: Failure | None = None
    address: str | None = None  # where its loader can be asked how far it is

    def follows(self, uid: str, generation: int) -> bool:
        """Whether the pod was injected from this very pipeline in this generation; unknown counts as yes."""
        return self.pipeline_uid in (None, uid) and self.generation in (None, generation)


def observe(pod: Object) -> PodReport:
    """The report of one pod that carries the pipeline label."""
    metadata, status = _mapping(pod, "metadata"), _mapping(pod, "status")
    name, uid = str(metadata.get("name", "")), str(metadata.get("uid", ""))
    created = str(metadata.get("creationTimestamp") or "")
    loader = _named(_mapping(pod, "spec").get("initContainers"))
    if loader is None:
        return PodReport(name, uid, created, "missed")
    container = _named(status.get("initContainerStatuses")) or {}
    report = _report_of(metadata, status, container, loader, created)
    return replace(report, address=_address(_mapping(pod, "spec"), status, container, loader))


def _address(spec: Object, status: Object, container: Object, loader: Object) -> str | None:
    """The pod's own IP address while its loader runs and answers; a node's, or a special one, is nobody's."""
    running = isinstance(_mapping(container, "state").get("running"), Mapping)
    answers = variable_in(loader, PROGRESS_VARIABLE) == str(PROGRESS_PORT)
    own = status.get("podIP")
    if not running or not answers or spec.get("hostNetwork") or own == status.get("hostIP"):
        return None
    try:
        found = ipaddress.ip_address(own if isinstance(own, str) else "")
    except ValueError:
        return None
    special = found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified
    mapped = isinstance(found, ipaddress.IPv6Address) and (found.ipv4_mapped or found.scope_id)
    return None if special or mapped else str(found)


def _report_of(metadata: Object, status: Object, container: Object, loader: Object, created: str) -> PodReport:
    name, uid = str(metadata.get("name", "")), str(metadata.get("uid", ""))
    ends = list(_ends(container))
    success = next((_success(end, run) for end, run in ends if _succeeded(end)), None)
    failures = (_failure(end, run, created) for end, run in ends if _counts_as_failure(end, metadata))
    failure = next(failures, None) or _stuck(container, status, created)
    phase = _phase(container, status, failure)
    pipeline_uid, generation = _injected_from(loader)
    return PodReport(name, uid, created, phase, pipeline_uid, generation, success, failure)


def observe_check(pod: Object) -> PodReport:
    """The report of one pod that checks a pipeline's source; what it is called apart from that does not matter."""
    metadata, status = _mapping(pod, "metadata"), _mapping(pod, "status")
    created = str(metadata.get("creationTimestamp") or "")
    container = _named(status.get("containerStatuses")) or {}
    return _report_of(metadata, status, container, _named(_mapping(pod, "spec").get("containers")) or {}, created)


def printable(text: object, limit: int = _TEXT_LIMIT) -> str:
    """One line of text that any JSON writer accepts, cut at `limit` characters."""
    line = " ".join(str(text).encode("utf-8", "replace").decode("utf-8").split())
    line = "".join(c for c in line if c.isprintable())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _phase(container: Object, status: Object, failure: Failure | None) -> Phase:
    state = _mapping(container, "state")
    end = state.get("terminated")
    if isinstance(end, Mapping) and end.get("exitCode") == 0:
        return "loaded" if _succeeded(end) else "continued"
    if failure is None:
        return "loading"
    crashed = _mapping(state, "waiting").get("reason") == "CrashLoopBackOff"
    stuck = _stuck(container, status, "") is not None
    return "failed" if isinstance(end, Mapping) or crashed or stuck else "loading"


def _ends(container: Object) -> Iterator[tuple[Object, int]]:
    """The terminations that the kubelet still remembers, newest first, each with its run's number."""
    count = container.get("restartCount")
    run = count if isinstance(count, int) else 0
    current = _mapping(container, "state").get("terminated")
    if isinstance(current, Mapping):
        yield current, run
    last = _mapping(container, "lastState").get("terminated")
    if isinstance(last, Mapping):
        # While a crashed container waits for its next run the count still names the crashed one.
        waiting = isinstance(_mapping(container, "state").get("waiting"), Mapping)
        yield last, run if waiting else max(run - 1, 0)


def _succeeded(end: Object) -> bool:
    """Whether a bundle was left; with `onFailure: Continue` a loader that failed ends well, too."""
    return end.get("exitCode") == 0 and not _went_on(_report(end))


def _went_on(report: Object) -> bool:
    return report.get("outcome") == CONTINUED


def _counts_as_failure(end: Object, metadata: Object) -> bool:
    if end.get("exitCode") == 0:
        return not _succeeded(end)
    stopped = metadata.get("deletionTimestamp") and end.get("exitCode") in _KILLED and end.get("reason") != "OOMKilled"
    return not stopped


def _success(end: Object, run: int) -> Success:
    report = _report(end)
    told = _mapping(report, "source")
    source: dict[str, Any] = {}
    source.update({key: printable(told[key]) for key in SOURCE_TEXTS if isinstance(told.get(key), str)})
    source.update({key: told[key] for key in SOURCE_NUMBERS if is_count(told.get(key))})
    if merged := _merged(told.get("merged")):
        source["merged"] = merged
    if warnings := report.get("warnings"):
        listed = warnings if isinstance(warnings, list) else [warnings]
        source["warnings"] = [printable(each) for each in listed[:KEPT_WARNINGS]]
    fetched, outcome = report.get("fetchedBytes"), report.get("outcome")
    return Success(
        _time(end),
        source,
        fetched if is_count(fetched) else None,
        run,
        duration(report.get("seconds")),
        outcome if outcome in (FETCHED, REUSED) else None,
        _resume(_mapping(report, "resume")),
    )


def _merged(told: object) -> list[Object]:
    """The checkpoints that were merged, without what is no text or number."""
    entries = [each for each in told if isinstance(each, Mapping)] if isinstance(told, list) else []
    return [
        {key: printable(each[key]) for key in ("uri", "version") if isinstance(each.get(key), str)}
        | {key: each[key] for key in ("tensors",) if is_count(each.get(key))}
        for each in entries[:KEPT_MERGED]
    ]


def _resume(told: Object) -> Object:
    """Which checkpoint of its run a pod goes on from, and which were passed over; empty: it was not told."""
    if not isinstance(told.get("run"), str) or told.get("strategy") not in RESUMING:
        return {}
    listed = told.get("passed")
    passed = [each for each in (listed if isinstance(listed, list) else ()) if isinstance(each, Mapping)]
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


def _exit_code(end: Object) -> int | None:
    code = end.get("exitCode")
    return code if isinstance(code, int) else None


def _failure(end: Object, run: int, created: str) -> Failure:
    report, code, kubelet = _report(end), _exit_code(end), str(end.get("reason") or "")
    told = _identifier(report.get("reason"))
    if kubelet == "OOMKilled":
        reason, message = kubelet, "the loader was killed because it needed more memory than its limit"
    elif told:
        reason, message = told, printable(report.get("message") or "the loader gave no message")
    elif code in _KILLED:
        reason, message = "Killed", f"the loader was killed (exit code {code})"
    else:
        reason = _REASON_OF_CODE.get(code, "Failed") if code is not None else "Failed"
        message = printable(end.get("message") or f"the loader ended with exit code {code} and no message")
    message = printable(f"trains from its initial weights: {message}") if _went_on(report) else message
    remedy = printable(report.get("remedy") or _REMEDIES.get(reason, ""))
    return Failure(_time(end) or created, reason, message, remedy, run)


def _stuck(container: Object, status: Object, created: str) -> Failure | None:
    """A loader that never ran and will not by itself: its image, its configuration, or the whole pod failed."""
    waiting = _mapping(_mapping(container, "state"), "waiting")
    reason, message = waiting.get("reason"), waiting.get("message")
    if not isinstance(reason, str) or reason not in _STUCK:
        loaded = _mapping(_mapping(container, "state"), "terminated").get("exitCode") == 0
        if status.get("phase") != "Failed" or loaded:
            return None
        reason, message = _identifier(status.get("reason")) or "PodFailed", status.get("message")
    text = printable(message or "the pod ended before its loader did")
    return Failure(_scheduled(status) or created, str(reason), text, _REMEDIES.get(str(reason), ""))


def _report(end: Object) -> Object:
    """The loader's own words. The kubelet cuts messages of pods with many containers: the first fields are rescued."""
    text = str(end.get("message") or "")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return dict(_FIELD.findall(text)) if text.lstrip().startswith("{") else {}
    return document if isinstance(document, Mapping) else {}


def _injected_from(loader: Object) -> tuple[str | None, int | None]:
    told = described_in(loader)
    uid, generation = told.get("uid"), told.get("generation")
    return (uid if isinstance(uid, str) else None), (generation if is_count(generation) else None)


def _named(containers: object) -> Object | None:
    entries = containers if isinstance(containers, list) else ()
    return next((c for c in entries if isinstance(c, Mapping) and c.get("name") == LOADER), None)


def _scheduled(status: Object) -> str:
    conditions = status.get("conditions")
    for condition in conditions if isinstance(conditions, list) else ():
        if isinstance(condition, Mapping) and condition.get("type") == "PodScheduled":
            return str(condition.get("lastTransitionTime") or "")
    return ""


def _time(end: Object) -> str:
    return str(end.get("finishedAt") or "")


def _mapping(parent: Object, key: str) -> Object:
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}


def is_count(value: object) -> TypeGuard[int]:
    """Whether the API server takes it for an integer, and it counts something."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def duration(value: object) -> float | None:
    """A number of seconds that a pod may have lived, or nothing."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value < _CENTURY else None


def _identifier(value: object) -> str:
    """A reason as Kubernetes' conditions want it, or nothing."""
    return value if isinstance(value, str) and _IDENTIFIER.fullmatch(value) else ""


def _reasons(error: type[CheckpointError]) -> dict[object, str]:
    """The reason of each exit code that the loader knows; errors of the operator's own say nothing of a container."""
    found: dict[object, str] = {error.exit_code: error.reason}
    for child in error.__subclasses__():
        if child.__module__ == CheckpointError.__module__:
            found |= {code: reason for code, reason in _reasons(child).items() if code not in found}
    return found


_IDENTIFIER = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")
_FIELD = re.compile(r'"(outcome|reason|message|remedy)":\s*"((?:[^"\\]|\\.)*)')
_REASON_OF_CODE: Mapping[object, str] = MappingProxyType(_reasons(CheckpointError))
#: What a failure's reason can be, unless somebody else than the loader wrote it.
REASONS = frozenset(_REASON_OF_CODE.values()) | _STUCK | {"Killed", "PodFailed"}
