"""What the upload of a pod tells of itself: in its termination message, and to who asks it while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from preheat_operator.answering import Question
from preheat_operator.foreign import Object, identifier, is_count, printable
from preheat_operator.upload_container import UPLOADS_PORT

OUTCOMES = ("uploaded", "uploading", "failed")
#: Names of what waits that are kept, and how long one may be.
KEPT_NAMES, NAME_LIMIT = 3, 200
MOST = 2**63 - 1  # what the API server takes for an integer


@dataclass(frozen=True)
class Account:
    """One upload's, since its container started."""

    outcome: str = "uploading"  # or uploaded: all that is finished is there; or failed
    uploaded: int = 0  # checkpoints and single files
    bytes: int = 0
    failures: int = 0
    waiting: int = 0  # what can be sent and is not there yet
    names: tuple[str, ...] = ()  # of the first of it
    last: str = ""  # that was sent
    last_time: str = ""  # RFC 3339, UTC
    reason: str = ""  # of the last failure, while something is left because of it
    message: str = ""
    remedy: str = ""

    @classmethod
    def of(cls, document: object) -> Account | None:
        """What an upload has told; None for what none tells."""
        if not isinstance(document, Mapping) or document.get("outcome") not in OUTCOMES:
            return None
        names, when = _names(document.get("waiting")), _moment(document.get("lastTime"))
        reason, message, remedy = _trouble(document)
        return cls(
            outcome=document["outcome"],
            uploaded=_count(document.get("uploaded")),
            bytes=_count(document.get("bytes")),
            failures=_count(document.get("failures")),
            waiting=min(len(names) + _count(document.get("moreWaiting")), MOST),
            names=tuple(names[:KEPT_NAMES]),
            last=printable(document.get("last") or "", NAME_LIMIT) if when else "",
            last_time=when,
            reason=reason,
            message=message,
            remedy=remedy,
        )

    @property
    def complete(self) -> bool:
        """Whether it says that all is there."""
        return self.outcome == "uploaded" and not self.waiting

    @property
    def left(self) -> str:
        """What waits, by number and name; empty: nothing, as far as it has told."""
        if not self.waiting:
            return ""
        more = ", ..." if self.waiting > len(self.names) else ""
        what = "1 checkpoint or file" if self.waiting == 1 else f"{self.waiting:,} checkpoints or files"
        return what + (f" ({', '.join(self.names)}{more})" if self.names else "")


UPLOAD_QUESTION = Question(UPLOADS_PORT, lambda uid: f"/uploads/{uid}", Account.of, limit=4096)


def _moment(value: object) -> str:
    """A time as the API server takes it, or nothing."""
    try:
        return datetime.strptime(str(value), "%Y-%m-%dT%H:%M:%SZ").isoformat() + "Z"
    except ValueError:
        return ""


def _trouble(document: Object) -> tuple[str, str, str]:
    if document["outcome"] != "failed":
        return "", "", ""
    reason = identifier(document.get("reason")) or "Failed"
    return reason, printable(document.get("message") or "no message"), printable(document.get("remedy") or "")


def _names(told: Any) -> list[str]:
    return [printable(each, NAME_LIMIT) for each in told if isinstance(each, str)] if isinstance(told, list) else []


def _count(value: object) -> int:
    return value if is_count(value) else 0
