"""The status of a CheckpointPipeline, as the resource's schema declares it; what it says is decided in `status`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from preheat_operator.loading_model import Death, Failure, Load, PodCounts, Progress, Resumed
from preheat_operator.recipe_model import Injection
from preheat_operator.source_model import Check, SourceStatus
from preheat_operator.stage_models import Part
from preheat_operator.status_values import Count, Moment
from preheat_operator.upload_model import Uploads


class Condition(Part):
    """One aspect of the pipeline's state, as all Kubernetes conditions."""

    type: Annotated[str, Field(max_length=316)]
    """Ready, Reconciling, Stalled, SourceResolved, Loading or Uploaded."""

    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""

    observed_generation: Count | None = None
    """The generation of the spec that it speaks of."""

    last_transition_time: Moment
    """When `status` last changed."""

    reason: Annotated[str, Field(max_length=1024)]
    """Why, in one word."""

    message: Annotated[str, Field(max_length=32768)]
    """Why, for a person, and what to do."""


class Status(Part):
    """What the operator has seen."""

    observed_generation: Count | None = None
    """The generation of the spec that this status speaks of."""

    conditions: Annotated[list[Condition], Field(max_length=16)] | None = None
    """Ready, Reconciling, Stalled, SourceResolved, Loading, and Uploaded where pods upload."""

    source: SourceStatus | None = None
    """What was found at the source."""

    check: Check | None = None
    """How the last check of the source ended."""

    injection: Injection | None = None
    """What the loader of every pod is told and allowed, where a MutatingAdmissionPolicy injects it."""

    pods: PodCounts | None = None
    """How many pods of the pipeline are in which state."""

    progress: Progress | None = None
    """How far the loaders are that run now; renewed every ten seconds at most."""

    last_load: Load | None = None
    """The last run of a loader that fetched the checkpoint; to find a bundle on the volume does not count."""

    resume: Resumed | None = None
    """What the last loader decided where the pipeline resumes a run: which checkpoint it took, and why not others."""

    uploads: Uploads | None = None
    """What became of what the pods save, where they upload it."""

    failures: Annotated[list[Failure], Field(max_length=10)] | None = None
    """The last failures, newest first."""

    deaths: Annotated[list[Death], Field(max_length=50)] | None = None
    """Trainings that died on a checkpoint of the run, newest first: new pods pass over one on which too many have."""
