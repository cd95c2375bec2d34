"""What one pod says about the upload of what it saves, read from the pod alone; nothing in it can make this raise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from preheat_operator.answering import address_of
from preheat_operator.foreign import Object, is_count, mapping, mappings, printable
from preheat_operator.loader_run import KILLED, REASON_OF_CODE, REMEDIES, STUCK, Failure
from preheat_operator.termination import Termination, terminations
from preheat_operator.upload_account import Account
from preheat_operator.upload_container import UPLOAD, UPLOADS_PORT, UPLOADS_VARIABLE

#: broken: it cannot run, or fails again and again; unsent: it has ended for good, and did not say that all was sent.
Phase = Literal["starting", "running", "broken", "done", "unsent"]
_MORE_MEMORY = "Raise limits.memory under spec.upload.resources"
_MORE_TIME = "Raise spec.upload.graceSeconds"
_LOST = "What was not sent is lost with the pod's emptyDir"
_KEPT = "It stays on its volume: the next pod of the pipeline that mounts it sends it"


@dataclass(frozen=True)
class Upload:
    """The container that sends what one pod saves."""

    phase: Phase
    restarts: int = 0
    account: Account | None = None  # of the last run that has ended
    failure: Failure | None = None  # why it is broken, or what is not sent and why
    address: str | None = None  # where it can be asked


@dataclass(frozen=True)
class _Run:
    end: Termination
    account: Account | None


def observe_upload(pod: Object) -> Upload | None:
    """The upload of a pod; None where it has none."""
    container = _named(mapping(pod, "spec").get("initContainers"))
    if container is None:
        return None
    status = _named(mapping(pod, "status").get("initContainerStatuses")) or {}
    runs = [_Run(end, Account.of(end.report)) for end in terminations(status)]
    account = next((run.account for run in runs if run.account), None)
    restarts = status.get("restartCount")
    phase, failure = _fate(pod, container, status, runs)
    address = address_of(pod, status, container, UPLOADS_VARIABLE, UPLOADS_PORT)
    return Upload(phase, restarts if is_count(restarts) else 0, account, failure, address)


def _fate(pod: Object, container: Object, status: Object, runs: list[_Run]) -> tuple[Phase, Failure | None]:
    state, created = mapping(status, "state"), str(mapping(pod, "metadata").get("creationTimestamp") or "")
    ended = runs[0] if isinstance(state.get("terminated"), Mapping) else None
    over = mapping(pod, "status").get("phase") in ("Succeeded", "Failed")
    if over or (ended and mapping(pod, "metadata").get("deletionTimestamp")):
        return _at_the_end(pod, container, state, ended, created)
    waiting = mapping(state, "waiting")
    reason = waiting.get("reason")
    if isinstance(reason, str) and reason in STUCK:
        said = printable(waiting.get("message") or "the container cannot be started")
        return "broken", Failure(created, reason, said, REMEDIES.get(reason, ""))
    running = isinstance(state.get("running"), Mapping)
    if runs and not running and runs[0].end.code != 0:
        return "broken", _why(runs[0], created)
    return ("running" if running or runs else "starting"), None


def _at_the_end(
    pod: Object, container: Object, state: Object, ended: _Run | None, created: str
) -> tuple[Phase, Failure | None]:
    """Only a container that ended by itself has sent everything."""
    if ended is None:
        if not isinstance(state.get("running"), Mapping):
            return "done", None  # it never ran, and so neither did the training
        why = Failure(
            _changed(pod) or created, "Lost", "its node did not tell how it ended", "See what became of the node"
        )
        return "unsent", _unsent(pod, container, why, None)
    if ended.end.code == 0 and (ended.account is None or ended.account.complete):
        return "done", None
    return "unsent", _unsent(pod, container, _why(ended, created), ended.account)


def _unsent(pod: Object, container: Object, why: Failure, account: Account | None) -> Failure:
    said = "the upload ended before it said that all was sent"
    if account and account.left:
        said = f"the upload ended and left {account.left}"
    text = printable(f"{said}: {why.reason}: {why.message}")
    fate = _LOST if _is_lost(pod, container) else _KEPT
    return Failure(why.time, why.reason, text, printable(f"{fate}. {why.remedy}" if why.remedy else fate), why.run)


def _why(run: _Run, created: str) -> Failure:
    """Why a run ended as it did."""
    end, account = run.end, run.account
    if end.reason == "OOMKilled":
        reason, message, remedy = end.reason, "it needed more memory than its limit", _MORE_MEMORY
    elif account and account.reason:
        reason, message, remedy = account.reason, account.message, account.remedy
    elif end.code in KILLED:
        reason, message, remedy = "Killed", f"it was killed (exit code {end.code})", _MORE_TIME
    else:
        reason = REASON_OF_CODE.get(end.code, "Failed")
        message, remedy = printable(end.message or f"it ended with exit code {end.code} and no message"), ""
    return Failure(end.time or created, reason, message, remedy, end.run)


def _is_lost(pod: Object, container: Object) -> bool:
    """Whether the volume that it sends from, its first, ends with the pod."""
    mounts = mappings(container.get("volumeMounts"))
    name = mounts[0].get("name") if mounts else None
    volumes = (each for each in mappings(mapping(pod, "spec").get("volumes")) if each.get("name") == name)
    return any("emptyDir" in each or "ephemeral" in each for each in volumes)


def _changed(pod: Object) -> str:
    """When a condition of the pod changed last."""
    conditions = mappings(mapping(pod, "status").get("conditions"))
    return max((str(each.get("lastTransitionTime") or "") for each in conditions), default="")


def _named(containers: object) -> Object | None:
    return next((each for each in mappings(containers) if each.get("name") == UPLOAD), None)
