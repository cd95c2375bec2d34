"""Applies the checkpoint in a script that uses Accelerate and never mentions Preheat.

`Accelerator.prepare` fills the model that an optimizer among its arguments trains, before it is wrapped. Of several
such models it is the first that the checkpoint fits; one that no optimizer trains, such as a teacher, is left alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from preheat.context import CheckpointContext
from preheat.errors import CheckpointIncompatibleError
from preheat.shim.apply import apply_to, is_applied, note
from preheat.shim.hooks import wrap_known

_OWN_WAYS = frozenset(("DEEPSPEED", "FSDP", "MEGATRON_LM", "TP", "XLA"))


def install() -> None:
    """Wrap the Accelerator, whose module is imported already."""
    wrap_known(sys.modules["accelerate.accelerator"].Accelerator, {"prepare": _prepare})


def require_plain(accelerator: Any) -> None:
    """Raise CheckpointIncompatibleError where optimizers are made anew, so that what they have would be lost."""
    if (kind := accelerator.distributed_type.name) in _OWN_WAYS:
        raise CheckpointIncompatibleError(
            f"the training goes by {kind}, which restores optimizers in its own way; that is not supported yet",
            remedy="Use weightsOnly, or the resuming of the framework",
        )


def _prepare(accelerator: Any, prepare: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    from torch.nn import Module

    known = [each for each in (*args, *getattr(accelerator, "_models", ())) if isinstance(each, Module)]
    candidates = [model for model in known if any(_trains(each, model) for each in args)]
    filled = next((part for model in known for part in model.modules() if is_applied(part)), None)
    if candidates and filled is None:
        filled = _fill_one(accelerator, candidates, args)
    for model in candidates:
        if not any(part is filled for part in model.modules()):
            note(filled, f"{type(model).__name__}, which is trained beside it, was left as it is")
    prepared = prepare(*args, **kwargs)
    for each in args:
        if any(_trains(each, model) for model in candidates):
            count_on_cpu(each)
    return prepared


def count_on_cpu(optimizer: Any) -> None:
    """Bring counts of steps back: Accelerate moves all of a state that is there to the device.

    Optimizers that are neither capturable nor fused read each count on the CPU, and would wait for the device.
    """
    for group in optimizer.param_groups:
        for parameter in () if group.get("capturable") or group.get("fused") else group["params"]:
            state = optimizer.state.get(parameter) or {}
            if hasattr(state.get("step"), "cpu"):
                state["step"] = state["step"].cpu()


def _fill_one(accelerator: Any, candidates: Sequence[Any], args: Sequence[Any]) -> Any:
    """The first model that the checkpoint fits, filled; raises what is said of the first when it fits none."""
    apply_to(*(_context(accelerator, model, args) for model in candidates))
    return next(model for model in candidates if is_applied(model))


def _context(accelerator: Any, model: Any, args: Sequence[Any]) -> CheckpointContext:
    optimizers = [each for each in args if _trains(each, model)]
    schedulers = [each for each in args if getattr(each, "optimizer", None) in optimizers]
    return CheckpointContext(
        model=model, optimizer=optimizers, scheduler=schedulers, resumable=lambda _: require_plain(accelerator)
    )


def _trains(each: Any, model: Any) -> bool:
    from torch.optim import Optimizer

    if not isinstance(each, Optimizer):
        return False
    own = {id(parameter) for parameter in model.parameters()}
    return any(id(parameter) in own for group in each.param_groups for parameter in group["params"])
