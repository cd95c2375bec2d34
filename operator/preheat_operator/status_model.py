"""The status of a CheckpointPipeline, as the resource's schema declares it; what it says is decided in `status`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from preheat_operator.stage_models import Part

Count = Annotated[int, Field(ge=0)]
Line = Annotated[str, Field(max_length=1024)]


class Condition(Part):
    """One aspect of the pipeline's state, as all Kubernetes conditions."""

    type: Annotated[str, Field(max_length=316)]
    """Ready, Reconciling, Stalled, SourceResolved or Loading."""

    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""

    observed_generation: Count | None = None
    """The generation of the spec that it speaks of."""

    last_transition_time: Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
    """When `status` last changed."""

    reason: Annotated[str, Field(max_length=1024)]
    """Why, in one word."""

    message: Annotated[str, Field(max_length=32768)]
    """Why, for a person, and what to do."""


class Merged(Part):
    """One of the checkpoints that a `merge` is made of."""

    uri: Line | None = None
    """Where it is, or how that ends."""

    version: Line | None = None
    """The version that a loader last read."""

    tensors: Count | None = None
    """Number of weights that are from it."""


class SourceStatus(Part):
    """What was found at the source."""

    uri: Annotated[str, Field(max_length=4096)] | None = None
    """Where the checkpoint is, without credentials."""

    version: Line | None = None
    """The version that a loader last read."""

    size_bytes: Count | None = None
    """Size of the whole object."""

    format: Line | None = None
    """Format of the file."""

    tensors: Count | None = None
    """Number of weights."""

    parameters: Count | None = None
    """Number of parameters in them."""

    selected_bytes: Count | None = None
    """Bytes that this pipeline needs of it."""

    output_bytes: Count | None = None
    """Bytes of the bundle that is made of them."""

    merged: Annotated[list[Merged], Field(max_length=8)] | None = None
    """What it is made of, if of several checkpoints."""

    warnings: Annotated[list[Line], Field(max_length=8)] | None = None
    """What checks that only warn have found in it."""


class Check(Part):
    """How the last check of the source ended: with the version that every pod gets, or with a reason."""

    time: Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
    """When it ended."""

    uri: Annotated[str, Field(max_length=4096)] | None = None
    """Where the checkpoint is."""

    version: Line | None = None
    """The version that pods get; a loader that finds another one fails with SourceChanged."""

    previous_version: Line | None = None
    """The version that pods got until this check found another one."""

    output_bytes: Count | None = None
    """Bytes of the bundle that is made of this version; the emptyDir's sizeLimit follows from it."""

    resume: Line | None = None
    """The checkpoint of the run that a pod would have gone on from then; `nothing`: the run had none."""

    warnings: Annotated[list[Line], Field(max_length=8)] | None = None
    """What the bundle will not fit into."""

    reason: Line | None = None
    """Why it failed, in one word."""

    message: Annotated[str, Field(max_length=4096)] | None = None
    """Why it failed."""

    remedy: Annotated[str, Field(max_length=4096)] | None = None
    """What to do."""


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

    pod: Annotated[str, Field(max_length=253)]
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

    time: Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
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

    pod: Annotated[str, Field(max_length=253)]
    """Name of the pod."""

    time: Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
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

    pod: Annotated[str, Field(max_length=253)]
    """Name of the pod."""

    time: Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
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


class Failure(Part):
    """One pod whose loader failed."""

    pod: Annotated[str, Field(max_length=253)]
    """Name of the pod."""

    time: Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
    """When the loader ended."""

    reason: Line
    """The loader's reason code."""

    message: Annotated[str, Field(max_length=4096)]
    """What happened."""

    remedy: Annotated[str, Field(max_length=4096)] | None = None
    """What to do."""


class SecretKey(Part):
    """One entry of a Secret in the pipeline's namespace."""

    name: Annotated[str, Field(max_length=253)]
    """Name of the Secret."""

    key: Annotated[str, Field(max_length=253)]
    """Key of the entry."""

    optional: bool = False
    """Whether the loader does without it."""


class ValueFrom(Part):
    """Where a variable's value comes from."""

    secret_key_ref: SecretKey
    """One entry of a Secret in the pipeline's namespace."""


class Variable(Part):
    """A variable of the loader, as in a container."""

    name: Annotated[str, Field(max_length=253)]
    """Its name."""

    value: Annotated[str, Field(max_length=4096)] | None = None
    """Its value."""

    value_from: ValueFrom | None = None
    """Where its value comes from."""


class Amounts(Part):
    """Amounts of CPU and memory."""

    cpu: Annotated[str, Field(max_length=32)] | None = None
    """Processors."""

    memory: Annotated[str, Field(max_length=32)] | None = None
    """Bytes."""


class LoaderResources(Part):
    """What the loader may use; never more than the pod's own containers use."""

    requests: Amounts
    """What the scheduler sets aside."""

    limits: Amounts
    """What the loader cannot exceed."""


class ClaimVolume(Part):
    """A PersistentVolumeClaim of the pod's namespace."""

    claim_name: Annotated[str, Field(max_length=253)]
    """Name of the claim."""


class EmptyVolume(Part):
    """A volume that lives and dies with its pod."""

    medium: Annotated[str, Field(max_length=64)] | None = None
    """Memory, or the node's disk."""

    size_limit: Annotated[str, Field(max_length=32)] | None = None
    """The pod is evicted when the volume grows beyond it."""


class BundleVolume(Part):
    """The volume that the bundle is put on."""

    persistent_volume_claim: ClaimVolume | None = None
    """A PersistentVolumeClaim of the pod's namespace."""

    empty_dir: EmptyVolume | None = None
    """A volume that lives and dies with its pod."""


class Injection(Part):
    """What the loader of every pod is told and allowed, where a MutatingAdmissionPolicy injects it."""

    pipeline: Annotated[str, Field(max_length=131_072)]
    """The pipeline and the version of its source, as the loader reads them."""

    environment: Annotated[list[Variable], Field(max_length=64)]
    """Further variables of the loader."""

    resources: LoaderResources
    """What the loader may use; never more than the pod's own containers use."""

    volume: BundleVolume
    """The volume that the bundle is put on."""

    run: Annotated[str, Field(max_length=4096)] | None = None
    """Folder of the run that is resumed, where it is on a volume of the training, which the loader reads then."""


class Status(Part):
    """What the operator has seen."""

    observed_generation: Count | None = None
    """The generation of the spec that this status speaks of."""

    conditions: Annotated[list[Condition], Field(max_length=16)] | None = None
    """Ready, Reconciling, Stalled, SourceResolved, Loading."""

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

    failures: Annotated[list[Failure], Field(max_length=10)] | None = None
    """The last failures, newest first."""
