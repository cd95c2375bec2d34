"""What the status says of the source, and of the check that has read it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from preheat_operator.stage_models import Part
from preheat_operator.status_values import Count, Line, Moment, Text


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

    uri: Text | None = None
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

    time: Moment
    """When it ended."""

    uri: Text | None = None
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

    message: Text | None = None
    """Why it failed."""

    remedy: Text | None = None
    """What to do."""
