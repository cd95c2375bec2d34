"""What became of what the pods of a pipeline save, in the words of its status. Pure: `inquiry` asks those that run.

That something was not sent is never forgotten with its pod: of one that was deleted the last answer counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from preheat_operator.answering import Round
from preheat_operator.foreign import Object, printable
from preheat_operator.memory import condition, newest, status_of
from preheat_operator.observation import PodReport
from preheat_operator.upload_account import MOST, Account
from preheat_operator.upload_container import UPLOAD

#: Pods of which the status tells: those with trouble first.
LISTED = 10
KEPT_UNSENT = 5
UNSENT, NOT_SEEN, FAILING = "CheckpointsUnsent", "UploadEndNotSeen", "UploadFailing"
#: Why something may not be sent: nobody saw how it ended.
_DELETED = "PodDeleted"
#: In the order in which people look at them. silent: it runs and does not answer; current: nothing is left to send.
State = Literal["failing", "unsent", "sending", "silent", "starting", "current", "done"]
STATES: tuple[State, ...] = ("failing", "unsent", "sending", "silent", "starting", "current", "done")
_GONE = "its pod was deleted before it said that all was sent"
_GONE_REMEDY = (
    "On a claim it is sent by the next pod of the pipeline that mounts it, on an emptyDir it is lost. "
    "Raise spec.upload.graceSeconds"
)


@dataclass(frozen=True)
class Sender:
    """The upload of one pod."""

    pod: str
    uid: str
    created: str
    state: State
    account: Account  # the last that is known
    restarts: int
    failing: Mapping[str, str] = field(default_factory=dict)  # reason, message, remedy, and time if it has ended

    @classmethod
    def of(cls, report: PodReport, answer: Account | None) -> Sender | None:
        """That of a pod which may have answered; None where it has none."""
        upload = report.upload
        if upload is None:
            return None
        account = answer or upload.account or Account()
        failing = _words(upload.failure.reason, upload.failure.message, upload.failure.remedy) if upload.failure else {}
        state: State
        if upload.phase == "broken":
            state = "failing"
        elif upload.phase != "running":
            state = upload.phase
            failing |= {"time": upload.failure.time} if upload.failure else {}
        elif answer is None:
            state = "silent"
        elif answer.reason:
            state, failing = "failing", _words(answer.reason, answer.message, answer.remedy)
        else:
            state = "current" if answer.complete else "sending"
        return cls(report.name, report.uid, report.created, state, account, upload.restarts, failing)

    def remembering(self, told: Object) -> Sender:
        """With what the status has told of it, where it does not answer this time."""
        if self.state != "silent" or not told:
            return self
        numbers: Any = {key: int(told.get(key) or 0) for key in ("uploaded", "bytes", "waiting", "failures")}
        return replace(self, account=Account(last=str(told.get("last", "")), **numbers))

    def to_status(self) -> dict[str, Any]:
        """As the status lists it."""
        account = self.account
        told = {
            "pod": self.pod,
            "created": self.created,
            "state": self.state,
            "uploaded": account.uploaded,
            "bytes": account.bytes,
            "waiting": account.waiting,
            "failures": account.failures,
            "restarts": self.restarts,
            "last": account.last,
        }
        words = {key: self.failing[key] for key in ("reason", "message", "remedy") if self.failing.get(key)}
        return {key: value for key, value in {**told, **words}.items() if value != ""}


@dataclass(frozen=True)
class Uploads:
    """Those of all pods of a pipeline, and what is remembered of pods that are gone."""

    senders: Sequence[Sender] = ()
    unsent: Sequence[Object] = ()  # of pods that have ended, newest first
    last: Object = field(default_factory=dict)  # that was sent: pod, name and time
    time: str = ""  # of the answers
    overcome: str = ""  # what was unsent until then has been followed by a pod that sends all

    @classmethod
    def of(
        cls, pods: Sequence[PodReport], answers: Round[Account], before: Object, held: Object, now: datetime
    ) -> Uploads:
        """Those of pods; `before` is what the status has told of uploads, and `held` its condition `Uploaded`."""
        told = {(each.get("pod"), each.get("created")): each for each in before.get("senders") or ()}
        found = (Sender.of(pod, answers.answers.get(pod.uid)) for pod in pods)
        known = (each.remembering(told.get((each.pod, each.created), {})) for each in found if each)
        senders = sorted(known, key=lambda each: (STATES.index(each.state), each.pod))
        good = [each.created for each in senders if each.state in ("current", "done")]
        since = str(held.get("lastTransitionTime", "")) if held.get("status") == "True" else ""
        asked = answers.time if any(each.uid in answers.answers for each in senders) else ""
        return cls(senders, _unsent(pods, senders, before, now), _last(senders, before), asked, max(since, *good, ""))

    def to_status(self) -> dict[str, Any]:
        """The status' field; empty when there is nothing to tell."""
        if not (self.senders or self.unsent or self.last):
            return {}
        status: dict[str, Any] = {
            "summary": self._summary(),
            "pods": len(self.senders),
            "uploaded": self._sum("uploaded"),
            "bytes": self._sum("bytes"),
            "waiting": self._sum("waiting"),
            "failures": self._sum("failures"),
            "senders": [each.to_status() for each in self.senders[:LISTED]],
        }
        more = {"time": self.time, "last": dict(self.last), "unsent": [dict(each) for each in self.unsent]}
        return status | {key: value for key, value in more.items() if value}

    def verdict(self, before: Object) -> tuple[Literal["True", "False", "Unknown"], str, str]:
        """Status, reason and message of the condition `Uploaded`, which was `before`."""
        if self.lost:
            reason = heading(self.lost)
            return "False" if reason == UNSENT else "Unknown", reason, sentence(self.lost)
        if failing := [each for each in self.senders if each.state == "failing"]:
            more = f"; so do {len(failing) - 1:,} more" if len(failing) > 1 else ""
            return "False", FAILING, printable(f"{sentence(failing[0].to_status())}{more}", 4096)
        if not self.senders:
            if before.get("status") == "True":
                return "True", str(before.get("reason", "")), str(before.get("message", ""))
            return "Unknown", "Idle", "no pod uploads"
        counted = {state: sum(each.state == state for each in self.senders) for state in STATES}
        if counted["sending"]:
            return "Unknown", "Sending", f"{self._sum('waiting'):,} to be sent by {_pods(counted['sending'])}"
        if counted["silent"]:
            return "Unknown", "NotAsked", f"{_pods(counted['silent'])} cannot be asked: kubectl logs POD -c {UPLOAD}"
        if counted["starting"]:
            return "Unknown", "Starting", f"{_pods(counted['starting'])} will upload"
        last = f", the last {self.last['name']}" if self.last else ""
        text = f"all that is finished is there: {self._sum('uploaded'):,} sent by {_pods(len(self.senders))}{last}"
        return "True", "Uploaded", printable(text, 4096)

    @property
    def lost(self) -> Object | None:
        """The newest pod that ended before all was sent, unless one that was made since sends all."""
        newest_unsent = self.unsent[0] if self.unsent else None
        return newest_unsent if newest_unsent and newest_unsent["time"] > self.overcome else None

    def _summary(self) -> str:
        """A few characters for a column."""
        said = [f"{self._sum('uploaded'):,} sent"]
        said += [f"{waiting:,} waiting"] if (waiting := self._sum("waiting")) else []
        said += ["failing"] if any(each.state == "failing" for each in self.senders) else []
        said += ["some unsent" if heading(self.lost) == UNSENT else "an end not seen"] if self.lost else []
        return ", ".join(said)

    def _sum(self, name: Literal["uploaded", "bytes", "waiting", "failures"]) -> int:
        return min(sum(int(getattr(each.account, name)) for each in self.senders), MOST)


def uploads_of(
    pipeline: Object, reports: Sequence[PodReport], answers: Round[Account], now: datetime
) -> Uploads | None:
    """Those of a pipeline's pods, of whatever generation: what is not sent does not depend on the spec.

    None: neither the pipeline nor a pod has any.
    """
    status = status_of(pipeline)
    before = status.get("uploads") or {}
    if not before and "upload" not in (pipeline.get("spec") or {}) and not any(pod.upload for pod in reports):
        return None
    return Uploads.of(reports, answers, before, condition(status, "Uploaded"), now)


def askable_uploads(reports: Iterable[PodReport]) -> dict[str, str]:
    """Where to ask uploads, by uid."""
    return {pod.uid: pod.upload.address for pod in reports if pod.upload and pod.upload.address}


def _unsent(pods: Sequence[PodReport], senders: Iterable[Sender], before: Object, now: datetime) -> list[Object]:
    """Of each pod that ended before all was sent, also of those that were deleted meanwhile."""
    seen: list[Object] = [
        {"pod": each.pod, **each.failing, "waiting": each.account.waiting} for each in senders if each.state == "unsent"
    ]
    there = {(pod.name, pod.created) for pod in pods}
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    gone = [each for each in before.get("senders") or () if (each.get("pod"), each.get("created", "")) not in there]
    for each in gone:
        if each.get("state") in ("failing", "sending", "silent") and each.get("waiting"):
            why = f"{_GONE}; {each['reason']}: {each.get('message', '')}" if each.get("reason") else _GONE
            words = _words(each.get("reason", _DELETED), f"{each['waiting']:,} to be sent: {why}", _GONE_REMEDY)
            seen.append({"pod": each["pod"], "time": time, **words, "waiting": each["waiting"]})
    created = {pod.name: pod.created for pod in pods}
    return newest(seen, before.get("unsent") or (), created, KEPT_UNSENT)


def _last(senders: Iterable[Sender], before: Object) -> Object:
    told = [
        {"pod": each.pod, "name": each.account.last, "time": each.account.last_time}
        for each in senders
        if each.account.last_time
    ]
    return max((before.get("last") or {}, *told), key=lambda each: str(each.get("time", "")))


def _words(reason: str, message: str, remedy: str) -> dict[str, str]:
    told = {"reason": reason, "message": printable(message), "remedy": printable(remedy)}
    return {key: value for key, value in told.items() if value}


def heading(unsent: Object) -> str:
    """What it is called that something was not sent, or may not have been: of a pod that was deleted nobody knows."""
    return NOT_SEEN if unsent["reason"] == _DELETED else UNSENT


def sentence(told: Object) -> str:
    """Whose trouble it is, what it is, and what to do."""
    text = f"pod {told['pod']}: {told['reason']}: {told.get('message', '')}"
    return printable(f"{text}. {told['remedy']}" if told.get("remedy") else text, 4096)


def _pods(number: int) -> str:
    return f"{number:,} pod" if number == 1 else f"{number:,} pods"
