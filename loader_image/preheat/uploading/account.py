"""What came of an upload so far: kept while it runs, told by the termination message and to who asks the pod."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from preheat.errors import CheckpointError

#: How many names of what waits are told to a pod's operator, and how long a text is then.
LISTED, NAME_LIMIT, TEXT_LIMIT = 5, 200, 800


@dataclass
class Account:
    """One upload's."""

    target: str
    units: int = 0  # checkpoints and single files that were sent
    files: int = 0
    bytes: int = 0
    present: int = 0  # units that were there already
    last: str = ""  # that was sent
    last_time: float | None = None  # when, as Unix time
    failures: int = 0
    waiting: dict[str, None] = field(default_factory=dict)  # names of what can be sent and is not there yet
    error: CheckpointError | None = None  # the last; None again when nothing is left

    def sent(self, name: str, files: int, count: int) -> None:
        """A unit is there: with so many files and bytes sent, none when all were there."""
        self.waiting.pop(name, None)
        if not files:
            self.present += 1
            return
        self.units += 1
        self.files += files
        self.bytes += count
        self.last, self.last_time = name, time.time()

    def failed(self, error: CheckpointError) -> None:
        """A unit could not be sent."""
        self.failures += 1
        self.error = error

    @property
    def outcome(self) -> str:
        """One word."""
        if self.error:
            return "failed"
        return "uploading" if self.waiting else "uploaded"

    def to_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        failed = {}
        if self.error:
            failed = {"reason": self.error.reason, "message": self.error.args[0], "remedy": self.error.remedy}
        return {
            "outcome": self.outcome,
            **failed,
            "uploaded": self.units,
            "files": self.files,
            "bytes": self.bytes,
            "present": self.present,
            "failures": self.failures,
            "target": self.target,
            "last": self.last,
            **({"lastTime": _moment(self.last_time)} if self.last_time else {}),
            "waiting": list(self.waiting),
        }

    def brief(self) -> dict[str, Any]:
        """The same, as long as fits into a termination message, whatever is there to be told.

        What counts comes first: the kubelet cuts messages of pods with many containers.
        """
        told = self.to_json()
        told |= {key: _cut(told[key], TEXT_LIMIT) for key in ("message", "remedy", "target") if key in told}
        told |= {"last": _cut(self.last, NAME_LIMIT), "waiting": [_cut(each) for each in islice(self.waiting, LISTED)]}
        more = len(self.waiting) - LISTED
        return {**told, "moreWaiting": more} if more > 0 else told


def _cut(text: str, limit: int = NAME_LIMIT) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
