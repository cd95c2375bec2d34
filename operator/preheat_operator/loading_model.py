"""What the status says of a pipeline's pods and their loaders: counts, progress, the last runs and failures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from preheat_operator.stage_models import Part
from preheat_operator.status_values import Count, Line, Moment, Name, Text


class PodCounts(Part):
    """How many pods of the pipeline are in which state."""

    matched: Count = 0
    """Pods that carry the label."""

    injected: Count = 0
    """Pods that carry the loader: loading, loaded, continued or failed."""

    loading: Count = 0
    """Pods whose loader has not finished."""

    loaded: Count = 0
    """Pods whose loader succeeded."""

    continued: Count = 0
    """Pods whose loader failed and that train from their initial weights, as `onFailure: Continue` asks."""

    failed: Count = 0
    """Pods whose loader failed."""

    missed: Count = 0
    """Pods that carry the label and no loader: made while nothing was installed."""


class LoaderProgress(Part):
    """How far one running loader is, by its own account."""

    pod: Name
    """Name of the pod."""

    phase: Literal["reading", "waiting", "transferring", "finishing"]
    """It reads the index, waits for another pod's loader that makes the same bundle, transfers, or makes it durable."""

    bytes_done: Count
    """Bytes of the source that have passed."""

    bytes_total: Count
    """Bytes of the source that are to pass; 0 while that is not known."""

    bytes_per_second: Count
    """Over the last seconds."""

    eta_seconds: Count | None = None
    """Until the transfer's end at this rate."""

    stalled_seconds: Count | None = None
    """For how long nothing has come, where that is too long."""


class Progress(Part):
    """How far the loaders are that run now and answer."""

    time: Moment
    """When they were asked."""

    summary: Line
    """In a few characters: share, rate, time left."""

    answered: Count
    """Loaders that the sums are of."""

    bytes_done: Count
    """Bytes of the source that have passed."""

    bytes_total: Count
    """Bytes of the source that are to pass, as far as it is known."""

    bytes_per_second: Count
    """Over the last seconds, of all together."""

    eta_seconds: Count | None = None
    """Until the last one's end at its rate."""

    loaders: Annotated[list[LoaderProgress], Field(max_length=10)]
    """Those that stand still first, then those with the smallest share."""


class Load(Part):
    """One loader's run that fetched the checkpoint."""

    pod: Name
    """Name of the pod."""

    time: Moment
    """When the loader ended."""

    seconds: Annotated[float, Field(ge=0)] | None = None
    """How long it took, from its first request to the finished bundle."""

    fetched_bytes: Count | None = None
    """Bytes that it read of the source."""

    bytes_per_second: Count | None = None
    """These by the time it took."""


class PassedOver(Part):
    """One checkpoint of a run that was not taken."""

    checkpoint: Line
    """Its name."""

    why: Line
    """Why not."""


class Resumed(Part):
    """What the loader of a pod decided where the pipeline resumes a run."""

    pod: Name
    """Name of the pod."""

    time: Moment
    """When the loader ended."""

    run: Line
    """Where the run saves."""

    strategy: Literal["warmStart", "weightsOnly"]
    """How the training goes on."""

    checkpoint: Line | None = None
    """The checkpoint that was taken; none: the stages ran."""

    passed: Annotated[list[PassedOver], Field(max_length=8)]
    """Better ones that were not taken, best first."""

    more_passed: Count | None = None
    """How many others were not."""


class Death(Part):
    """One training that went on from a checkpoint of the run and died, where it could leave no mark beside the run."""

    run: Line
    """Where the run saves."""

    checkpoint: Line
    """The checkpoint that it had begun from."""

    saved: Annotated[float, Field(ge=0)]
    """When that was saved, in seconds since 1970: one that is saved anew is another."""

    start: Annotated[str, Field(max_length=64)]
    """The same for all ranks of the training, which die together."""

    began: Annotated[float, Field(ge=0)]
    """When the process did, in seconds since 1970."""

    pod: Name
    """Name of the pod whose container ended first."""

    time: Moment
    """When it ended."""

    reason: Annotated[str, Field(max_length=64)]
    """OOMKilled, or the exit code."""


class Failure(Part):
    """One pod whose loader failed."""

    pod: Name
    """Name of the pod."""

    time: Moment
    """When the loader ended."""

    reason: Line
    """The loader's reason code."""

    message: Text
    """What happened."""

    remedy: Text | None = None
    """What to do."""
