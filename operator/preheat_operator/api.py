"""The CheckpointPipeline resource: its models, and the way from a manifest to a pipeline that can be trusted.

The models are what the resource's schema is generated from (`crd`). `Pipeline.parse` refuses, with a text for the
author of the manifest, everything that the API server refuses; so it also serves where no API server is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema, model_validator

from preheat import spec as preheat_spec
from preheat.catalog import built_in
from preheat.errors import CheckpointConfigError
from preheat.resume import settings as preheat_resume
from preheat.sources import PLACES
from preheat.spelling import build
from preheat_operator.composition import check_composition
from preheat_operator.deaths import for_loaders
from preheat_operator.quantity import QUANTITY_PATTERN, checked_quantity
from preheat_operator.stage_models import Part, one_of, stage_model
from preheat_operator.status_model import Status

GROUP = "preheat.dev"
VERSION = "v1alpha1"
KIND = "CheckpointPipeline"
PLURAL = "checkpointpipelines"
SHORT_NAME = "ckpt"
#: On a pod: the name of its pipeline. Label values end at 63 characters, so names of pipelines do.
LABEL = "preheat.dev/pipeline"
NAME_LENGTH = 63

CACHE_ON_CLAIM = "an emptyDir ends with its one bundle: give cache a persistentVolumeClaim"

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Quantity = Annotated[
    int | str,
    AfterValidator(checked_quantity),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 32, "pattern": QUANTITY_PATTERN}),
]


Stage = one_of(
    "Stage", "One step of the pipeline: exactly one of these properties, named after the component.", built_in()
)


class PersistentVolumeClaim(Part):
    """A claim in the pipeline's namespace; pods that share it share bundles."""

    claim_name: ObjectName
    """Name of the claim."""


class EmptyDir(Part):
    """A volume that lives and dies with its pod."""

    medium: Literal["", "Memory"] | None = None
    """Memory: a tmpfs, which counts against the containers' memory limits. Default: the node's disk."""

    size_limit: Quantity | None = None
    """The pod is evicted when the volume grows beyond it. Default: twice what the check measured, and 256Mi."""


class Cache(Part):
    """How many bytes of bundles stay on a claim; those that were not used for longest go, never one in use."""

    max_size: Quantity
    """Bytes, such as 200Gi. A loader that has made a bundle removes others beyond it."""

    pod_lifetime_seconds: Annotated[int, Field(ge=3600, le=315_360_000)] | None = None
    """No pod on the claim lives longer than this. Default: what a pod has used stays in use for ever."""


class Volume(Part):
    """Where the bundle is put. Default: an emptyDir."""

    empty_dir: EmptyDir | None = None
    """A volume that lives and dies with its pod."""

    persistent_volume_claim: PersistentVolumeClaim | None = None
    """A claim in the pipeline's namespace; pods that share it share bundles."""

    cache: Cache | None = None
    """How many bytes of bundles stay on the claim. Default: all."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.empty_dir and self.persistent_volume_claim:
            raise ValueError("choose one: emptyDir or persistentVolumeClaim")
        if self.cache and not self.persistent_volume_claim:
            raise ValueError(CACHE_ON_CLAIM)
        return self


class ResourceAmounts(Part):
    """Amounts of CPU and memory."""

    cpu: Quantity | None = None
    """Processors, such as 500m."""

    memory: Quantity | None = None
    """Bytes, such as 128Mi."""


class Resources(Part):
    """What the loader may use; never more than the pod's own containers use."""

    requests: ResourceAmounts | None = None
    """What the scheduler sets aside. Default: 100m and 64Mi."""

    limits: ResourceAmounts | None = None
    """What the loader cannot exceed. Default: 1 and 128Mi."""


class Loader(Part):
    """The init container that fetches the checkpoint."""

    resources: Resources | None = None
    """What the loader may use; never more than the pod's own containers use."""

    bandwidth: Quantity | None = None
    """Bytes per second that each loader reads at most, such as 200M; at least 1M. Default: as many as come."""

    deadline_seconds: Annotated[int, Field(ge=1, le=604_800)] | None = None
    """Give up after so long whatever the progress; the container that starts again goes on with what is finished."""


Resume = stage_model(preheat_resume.Resume)

Destination = one_of(
    "Destination",
    "Where checkpoints are sent: exactly one of these. What is below the path gets the same names below it.",
    {name: PLACES[name] for name in ("s3", "http", "fsspec")},
)


class Upload(Part):
    """A container beside the training that sends finished checkpoints while it saves, and the last ones at its end."""

    path: Annotated[str, Field(min_length=2, max_length=1024, pattern=r"^(/[^/]+)+/?$")]
    """The folder that the training saves to, as its containers see it: on a volume of the pod."""

    to: Destination  # type: ignore[valid-type]
    """Where checkpoints are sent."""

    verify: Literal["checksum", "size"] = "checksum"
    """What is compared after a file has arrived; size: where a store tells no checksum, files are not read back."""

    settle_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """Files of other programs than Preheat are sent when they have not changed for so long."""

    grace_seconds: Annotated[int, Field(ge=30, le=86_400)] | None = None
    """Raise the pod's terminationGracePeriodSeconds to this: the last checkpoint has to be sent by then."""

    bandwidth: Quantity | None = None
    """Bytes per second that are sent at most, such as 200M; at least 1M. Default: as many as go."""

    resources: Resources | None = None
    """What the container may use, beside what the pod's own use. Default: the loader's."""


class Spec(Part):
    """What a pod that asks for this pipeline receives, and how."""

    stages: Annotated[list[Stage], Field(min_length=1, max_length=32)]  # type: ignore[valid-type]
    """The steps, in order: a source, checks, one loading strategy, modifiers."""

    resume: Resume | None = None  # type: ignore[valid-type]
    """Go on from the newest good checkpoint of a run, decided when the container starts; else run the stages."""

    on_failure: Literal["Fail", "Continue"] = "Fail"
    """Continue: train from initial weights, loudly, when the checkpoint cannot be had; what is corrupt always fails."""

    continue_on_error: bool = False
    """Go on when a stage in the training process fails; the report says which did. A failing source always fails."""

    max_retries: Annotated[int, Field(ge=0, le=10)] = 3
    """How often a failed request to the source is repeated."""

    timeout_seconds: Annotated[int, Field(ge=1, le=86400)] = 300
    """Give up after so long without progress."""

    service_account_name: ObjectName | None = None
    """The ServiceAccount with which the operator's check reads the source. Default: the namespace's `default`."""

    refresh_seconds: Annotated[int, Field(ge=300, le=31_536_000)] | None = None
    """Check the source again so often; pods get the version found last. Default: the one found first, for ever."""

    volume: Volume | None = None
    """Where the bundle is put. Default: an emptyDir."""

    loader: Loader | None = None
    """The init container that fetches the checkpoint."""

    upload: Upload | None = None
    """A container beside the training that sends finished checkpoints while it saves, and the last ones at its end."""


class Resource(Part):
    """A checkpoint on its way into training pods: where it lives, how it is checked, how it enters the model."""

    spec: Spec
    """What a pod that asks for this pipeline receives, and how."""

    status: Status | None = None
    """What the operator has seen."""


@dataclass(frozen=True)
class Pipeline:
    """A CheckpointPipeline that passed every check."""

    name: str
    namespace: str
    uid: str
    generation: int
    spec: Mapping[str, Any]  # as the API server holds it
    parsed: preheat_spec.PipelineSpec
    deaths: str = ""  # what is told to new pods of the trainings that have died: the resource's status has it

    def knowing(self, resource: Mapping[str, Any]) -> Pipeline:
        """The same, with what this resource knows of deaths."""
        deaths = for_loaders(resource) if self.parsed.resume else ""
        return self if deaths == self.deaths else replace(self, deaths=deaths)

    @classmethod
    def parse(cls, resource: Mapping[str, Any]) -> Pipeline:
        """The pipeline in a manifest; raises CheckpointConfigError that says what is wrong where, and what to do."""
        metadata, spec = resource.get("metadata") or {}, resource.get("spec")
        name = str(metadata.get("name", ""))
        if len(name) > NAME_LENGTH:
            raise CheckpointConfigError(
                f"metadata.name: a pod names its pipeline in a label, so at most {NAME_LENGTH} characters"
            )
        try:
            Spec.model_validate(spec)
        except ValidationError as error:
            raise CheckpointConfigError("; ".join(_sentence(each) for each in error.errors())) from error
        parsed = preheat_spec.parse({"spec": spec})
        check_composition(parsed.stages)
        if upload := (spec or {}).get("upload"):
            build(upload["to"], "spec.upload.to")
        return cls(
            name=name,
            namespace=str(metadata.get("namespace", "")),
            uid=str(metadata.get("uid", "")),
            generation=int(metadata.get("generation", 0)),
            spec=spec or {},
            parsed=parsed,
        ).knowing(resource)


def _sentence(error: Any) -> str:
    where = "spec" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"])
    if error["type"] == "extra_forbidden":
        parent = ".".join(str(step) for step in error["loc"][:-1] if not isinstance(step, int))
        path = f"{SHORT_NAME}.spec{'.' if parent else ''}{parent}"
        return f"{where}: unknown field; `kubectl explain {path}` lists the known ones"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"
