"""Refuses the first optimizer step of a process that was given a checkpoint and did not apply it.

The hook exists only until a checkpoint is applied: before that every step is an error, after that it is gone.
"""

from __future__ import annotations

from typing import Any

from preheat.errors import CheckpointError, NoWeightsError

_handles: list[Any] = []


def install() -> None:
    """Watch every optimizer of this process; a second call does nothing. torch is imported already."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    if not _handles:
        _handles.append(register_optimizer_step_pre_hook(refuse))


def release() -> None:
    """Stop watching: a checkpoint was applied."""
    while _handles:
        _handles.pop().remove()


def refuse(*_: Any) -> None:
    """Raise NoWeightsError in place of the step."""
    raise NoWeightsError(
        f"the checkpoint{_of_pipeline()} was not applied in this process before its first optimizer step: "
        "the model may hold its initial weights",
        remedy="Call preheat.apply(model) in every process that trains, or annotate the pod with "
        "`preheat.dev/shim: off`",
    )


def _of_pipeline() -> str:
    from preheat.bundle.data import read_manifest
    from preheat.shim.environment import bundle_folder

    try:
        name = read_manifest(bundle_folder()).pipeline.name
    except CheckpointError:
        return ""
    return f" of pipeline {name!r}" if name else ""
