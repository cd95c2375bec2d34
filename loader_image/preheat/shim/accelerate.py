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


def install() -> None:
    """Wrap the Accelerator, whose module is imported already."""
    wrap_known(sys.modules["accelerate.accelerator"].Accelerator, {"prepare": _prepare})


def _prepare(accelerator: Any, prepare: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    from torch.nn import Module

    known = [each for each in (*args, *accelerator._models) if isinstance(each, Module)]
    candidates = [model for model in known if any(_trains(each, model) for each in args)]
    filled = next((part for model in known for part in model.modules() if is_applied(part)), None)
    if candidates and filled is None:
        filled = _fill_one(candidates, args)
    for model in candidates:
        if not any(part is filled for part in model.modules()):
            note(filled, f"{type(model).__name__}, which is trained beside it, was left as it is")
    return prepare(*args, **kwargs)


def _fill_one(candidates: Sequence[Any], args: Sequence[Any]) -> Any:
    """The first model that the checkpoint fits, filled; raises what is said of the first when it fits none."""
    refusals: list[CheckpointIncompatibleError] = []
    for model in candidates:
        optimizers = [each for each in args if _trains(each, model)]
        schedulers = [each for each in args if getattr(each, "optimizer", None) in optimizers]
        try:
            apply_to(CheckpointContext(model=model, optimizer=optimizers, scheduler=schedulers))
        except CheckpointIncompatibleError as error:
            if error.touched:
                raise
            refusals.append(error)
        else:
            return model
    raise refusals[0]


def _trains(each: Any, model: Any) -> bool:
    from torch.optim import Optimizer

    if not isinstance(each, Optimizer):
        return False
    own = {id(parameter) for parameter in model.parameters()}
    return any(id(parameter) in own for group in each.param_groups for parameter in group["params"])
