"""One thing that people are told about a pod or a pipeline, and what tells it from all others."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Literal

from preheat_operator.foreign import Object, printable
from preheat_operator.loader_run import Failure, Success

#: Events live for an hour: what is older has been told, or is not news.
NEWS = timedelta(hours=1)
#: Longer than no operator runs while one takes another's place.
_ABSENCE = timedelta(minutes=3)


@dataclass(frozen=True)
class Announcement:
    """One Event to be: `key` tells apart what is told twice about the same object for the same reason."""

    kind: Literal["Pod", "CheckpointPipeline"]
    namespace: str
    name: str
    uid: str
    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    key: str
    run: Success | Failure | None = None  # the loader's, if it is about one
    time: str = ""  # when it happened: RFC 3339, UTC

    def preceded(self, now: datetime) -> bool:
        """Whether it happened long enough ago for an operator that was there before to have told of it."""
        return self.time < before(now, _ABSENCE)

    @property
    def event_name(self) -> str:
        """The Event's name, the same for the same news."""
        digest = sha256("/".join((self.kind, self.uid, self.reason, self.key)).encode()).hexdigest()
        return f"{self.name[:200].rstrip('.-')}.{digest[:16]}"


def on_pipeline(
    pipeline: Object, type_: Literal["Normal", "Warning"], reason: str, message: str, key: str, at: str = ""
) -> Announcement:
    """What is told about a pipeline, once for each generation."""
    metadata = pipeline["metadata"]
    where = metadata["namespace"], metadata["name"], metadata["uid"]
    key = f"{metadata.get('generation')}/{key}"
    return Announcement("CheckpointPipeline", *where, type_, reason, printable(message), key, time=at)


def before(now: datetime, span: timedelta) -> str:
    """The time then, as Kubernetes writes it."""
    return (now - span).strftime("%Y-%m-%dT%H:%M:%SZ")
