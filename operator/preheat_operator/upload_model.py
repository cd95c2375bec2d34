"""What the status says of uploads: what pods have sent of what they save, and what they have not."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from preheat_operator.stage_models import Part
from preheat_operator.status_values import Count, Line, Moment, Name, Text


class Sent(Part):
    """What was sent last."""

    pod: Name
    """Name of the pod."""

    name: Line
    """The checkpoint or file, below `upload.path`."""

    time: Moment
    """When it was there."""


class Sender(Part):
    """The upload of one pod."""

    pod: Name
    """Name of the pod."""

    created: Moment
    """When the pod was made."""

    state: Literal["failing", "unsent", "sending", "silent", "starting", "current", "done"]
    """It fails, ended before all was sent, sends, runs and cannot be asked, begins, has nothing left, or has ended."""

    uploaded: Count
    """Checkpoints and single files that its present run has sent, or its last one."""

    bytes: Count
    """Bytes of them."""

    waiting: Count
    """What can be sent and is not there yet."""

    failures: Count
    """Attempts that failed."""

    restarts: Count
    """How often its container was started again."""

    last: Line | None = None
    """What it sent last."""

    reason: Line | None = None
    """Why it fails, in one word."""

    message: Text | None = None
    """Why it fails."""

    remedy: Text | None = None
    """What to do."""


class Unsent(Part):
    """One pod that ended before all was sent."""

    pod: Name
    """Name of the pod."""

    time: Moment
    """When its upload ended, or was missed."""

    waiting: Count
    """What was not sent, as far as it is known."""

    reason: Line
    """Why, in one word."""

    message: Text
    """Why."""

    remedy: Text | None = None
    """What to do."""


class Uploads(Part):
    """What became of what the pods save."""

    time: Moment | None = None
    """When those that run were asked."""

    summary: Line
    """In a few characters: sent, waiting, failing."""

    pods: Count
    """Pods with an upload, that the sums are of."""

    uploaded: Count
    """Checkpoints and single files that were sent."""

    bytes: Count
    """Bytes of them."""

    waiting: Count
    """What can be sent and is not there yet."""

    failures: Count
    """Attempts that failed."""

    last: Sent | None = None
    """What was sent last."""

    senders: Annotated[list[Sender], Field(max_length=10)]
    """Those with trouble first."""

    unsent: Annotated[list[Unsent], Field(max_length=5)] | None = None
    """The last pods that ended before all was sent, newest first."""
