"""Refuses the first optimizer step of a process that was given a checkpoint and did not apply it.

The hook exists only until a checkpoint is applied: before that every step is an error, after that it is gone.
"""

from __future__ import annotations

from typing import Any

from preheat.errors import CheckpointError, NoWeightsError
from preheat.shim import first_step


def install() -> None:
    """Watch every optimizer of this process; raises UnsupportedVersionError for a torch that has no such hook."""
    first_step.watch(refuse)


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
