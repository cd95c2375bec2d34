"""A source as the parameter of another: the folder in which one of many checkpoints is looked for."""

from __future__ import annotations

from typing import Any

from preheat.errors import CheckpointConfigError
from preheat.spelling import build
from preheat.stage import Place


def place_of(described: Any, where: str) -> Place:
    """The place that a mapping describes, or that it is; raises CheckpointConfigError for a source that names none."""
    place = build(described, where)
    if not isinstance(place, Place):
        raise CheckpointConfigError(
            f"{where}: {type(place).__name__} names no folder", remedy="Give one of s3, fsspec, local and the like"
        )
    return place
