"""Refuses the first optimizer step of a process that was given a checkpoint and did not apply it.

The hook exists only until a checkpoint is applied: before that every step is an error, after that it is gone.
"""

from __future__ import annotations

import sys
from typing import Any

from preheat.errors import CheckpointError, NoWeightsError, UnsupportedVersionError

_handles: list[Any] = []


def install() -> None:
    """Watch every optimizer of this process; a second call does nothing. torch is imported already.

    Raises UnsupportedVersionError for a torch whose optimizers cannot be watched.
    """
    try:
        from torch.optim.optimizer import register_optimizer_step_pre_hook
    except ImportError as error:
        version = getattr(sys.modules["torch"], "__version__", "of an unknown version")
        raise UnsupportedVersionError(
            f"torch {version} has no hook before the steps of all optimizers", remedy="Use torch 2.0 or newer"
        ) from error

    if not _handles:
        _handles.append(register_optimizer_step_pre_hook(refuse))


def release() -> None:
    """Stop watching: a checkpoint was applied."""
    while _handles:
        _handles.pop().remove()


def refuse(*_: Any) -> None:
    """Raise in place of the step: what the loader met, where that is not passed over, else NoWeightsError."""
    from preheat.shim import policy

    try:
        policy.refuse_absent()
    except CheckpointError as error:
        policy.pass_over(error)
        return
    name = policy.pipeline_name()
    whose = f" of pipeline {name!r}" if name else ""
    raise NoWeightsError(
        f"the checkpoint{whose} was not applied in this process before its first optimizer step: "
        "the model may hold its initial weights",
        remedy="Call preheat.apply(model) in every process that trains, or annotate the pod with "
        "`preheat.dev/shim: off`",
    )
