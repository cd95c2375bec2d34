"""How far the running loaders of a pipeline are, in the words of its status. Pure: `inquiry` asks them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from preheat_operator.answering import Question, Round
from preheat_operator.foreign import duration, is_count
from preheat_operator.loader_container import LOADER, PROGRESS_PORT
from preheat_operator.observation import PodReport
from preheat_operator.quantity import human_bytes

#: Loaders of which the status tells: those that stand still first, then those with the smallest share.
LISTED = 10

Phase = Literal["reading", "waiting", "transferring", "finishing"]
#: In which nothing but bytes of the source is waited for.
_RECEIVING: tuple[Phase, ...] = ("reading", "transferring")


@dataclass(frozen=True)
class Progress:
    """How far one loader is, by its own account."""

    phase: Phase
    done: int
    total: int
    rate: int  # bytes a second
    idle: float  # seconds for which nothing has come

    @classmethod
    def of(cls, document: object) -> Progress | None:
        """What a loader has told; None for what none tells."""
        if not isinstance(document, Mapping) or document.get("phase") not in get_args(Phase):
            return None
        done, total, rate = (document.get(name) for name in ("bytesDone", "bytesTotal", "bytesPerSecond"))
        idle = duration(document.get("idleSeconds"))
        if not (is_count(done) and is_count(total) and is_count(rate)) or idle is None:
            return None
        return cls(document["phase"], min(done, total), total, rate, idle)

    @property
    def left(self) -> int | None:
        """Seconds to the end at the present rate; None when nobody can tell."""
        if self.phase != "transferring" or not self.rate:
            return None
        return min((self.total - self.done) // self.rate, 2**31)

    def stands_still(self, after: float) -> bool:
        """Whether nothing has come for so many seconds, and something should have."""
        return self.phase in _RECEIVING and self.idle >= after

    def to_status(self, stall: float) -> dict[str, Any]:
        """As the status lists it."""
        told = {
            "phase": self.phase,
            "bytesDone": self.done,
            "bytesTotal": self.total,
            "bytesPerSecond": self.rate,
            "etaSeconds": self.left,
            "stalledSeconds": int(self.idle) if self.stands_still(stall) else None,
        }
        return {key: value for key, value in told.items() if value is not None}


LOADER_QUESTION = Question(PROGRESS_PORT, lambda uid: "/progress", Progress.of, limit=2048)


@dataclass(frozen=True)
class Loaders:
    """The loaders that run now, and what those have told that answered."""

    running: int = 0
    told: Sequence[tuple[str, Progress]] = ()  # by name of the pod, in the order in which people look at them
    time: str = ""  # of the answers
    stall: float = 60  # seconds

    @classmethod
    def of(cls, reports: Iterable[PodReport], last: Round[Progress], stall: float = 60) -> Loaders:
        """Those of a pipeline's pods."""
        running = [pod for pod in reports if pod.phase == "loading"]
        told = [(pod.name, last.answers[pod.uid]) for pod in running if pod.uid in last.answers]
        told.sort(key=lambda each: (not each[1].stands_still(stall), _share(each[1].done, each[1].total), each[0]))
        return cls(len(running), told, last.time, stall)

    @property
    def stalled(self) -> list[str]:
        """Pods whose loaders receive nothing."""
        return [pod for pod, progress in self.told if progress.stands_still(self.stall)]

    def to_status(self) -> dict[str, Any]:
        """The status' field; empty when nobody has answered."""
        if not self.told:
            return {}
        done, total, rate = self._sums()
        left = self._left()
        return {
            "time": self.time,
            "summary": self._summary(),
            "answered": len(self.told),
            "bytesDone": done,
            "bytesTotal": total,
            "bytesPerSecond": rate,
            **({"etaSeconds": left} if left is not None else {}),
            "loaders": [{"pod": pod, **progress.to_status(self.stall)} for pod, progress in self.told[:LISTED]],
        }

    def verdict(self) -> tuple[Literal["True", "False"], str, str]:
        """Status, reason and message of the condition `Loading`."""
        if not self.running:
            return "False", "Idle", "no loader runs"
        if self.stalled:
            first, others = self.stalled[0], len(self.stalled) - 1
            idle = next(progress.idle for pod, progress in self.told if pod == first)
            more = f", nor have {others} others" if others > 1 else ", nor has one other" if others else ""
            remedy = f"See what its source answers: kubectl logs {first} -c {LOADER}"
            said = f"the loader of pod {first} has received nothing for {human_seconds(idle)}{more}. {remedy}"
            return "True", "LoaderStalled", said
        run = "1 loader runs" if self.running == 1 else f"{self.running:,} loaders run"
        return "True", "Loading", f"{run}{self._how()}"

    def _how(self) -> str:
        if not self.told:
            return ""
        (done, total, rate), left = self._sums(), self._left()
        answered = f", {len(self.told):,} answered" if len(self.told) < self.running else ""
        if not total:
            return f"{answered}: {self._summary()}"
        end = f", {human_seconds(left)} left" if left is not None else ""
        return f"{answered}: {_share(done, total)}% of {human_bytes(total)}, {human_bytes(rate)}/s{end}"

    def _summary(self) -> str:
        """A few characters for a column."""
        done, total, rate = self._sums()
        if self.stalled:
            return f"{_share(done, total)}% stalled"
        if not total or not rate:  # all read, wait, or finish: what the first of them does
            return f"{_share(done, total)}% {self.told[0][1].phase}" if total else self.told[0][1].phase
        left = self._left()
        end = f" {human_seconds(left)}" if left is not None else ""
        return f"{_share(done, total)}% {human_bytes(rate)}/s{end}"

    def _sums(self) -> tuple[int, int, int]:
        each = [progress for _, progress in self.told]
        moving = sum(one.rate for one in each if one.phase == "transferring")
        most = 2**63 - 1  # what the API server takes for an integer
        return min(sum(one.done for one in each), most), min(sum(one.total for one in each), most), min(moving, most)

    def _left(self) -> int | None:
        return max((one.left for _, one in self.told if one.left is not None), default=None)


def human_seconds(seconds: float) -> str:
    """A duration for a sentence: 12s, 3m10s, 2h05m."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def _share(done: int, total: int) -> int:
    return 100 * done // total if total else 0
