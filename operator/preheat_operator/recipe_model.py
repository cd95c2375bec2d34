"""What the status says to a MutatingAdmissionPolicy, which can read nothing else: the recipe, as a schema."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from preheat_operator.stage_models import Part
from preheat_operator.status_values import Name, Text


class SecretKey(Part):
    """One entry of a Secret in the pipeline's namespace."""

    name: Name
    """Name of the Secret."""

    key: Name
    """Key of the entry."""

    optional: bool = False
    """Whether the container does without it."""


class ValueFrom(Part):
    """Where a variable's value comes from."""

    secret_key_ref: SecretKey
    """One entry of a Secret in the pipeline's namespace."""


class Variable(Part):
    """A variable, as in a container."""

    name: Name
    """Its name."""

    value: Text | None = None
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

    claim_name: Name
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


class SidecarResources(Part):
    """What a container beside the training may use."""

    requests: Amounts
    """What the scheduler sets aside."""

    limits: Amounts
    """What the container cannot exceed."""


class UploadInjection(Part):
    """What the upload of every pod is told and allowed."""

    settings: Annotated[str, Field(max_length=131_072)]
    """What goes where, as the upload reads it."""

    environment: Annotated[list[Variable], Field(max_length=64)]
    """Further variables of the upload."""

    path: Text
    """The folder that is sent, on a volume of the pod."""

    resources: SidecarResources
    """What it may use, beside what the pod's own containers use."""

    exact: Amounts
    """What it requests and is limited to in a Guaranteed pod."""


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

    run: Text | None = None
    """Folder of the run that is resumed, where it is on a volume of the training, which the loader reads then."""

    upload: UploadInjection | None = None
    """What the upload of every pod is told and allowed, where the pipeline asks for one."""
