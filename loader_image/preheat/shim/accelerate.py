"""Applies the checkpoint in a script that uses Accelerate and never mentions Preheat.

`Accelerator.prepare` fills the model that an optimizer among its arguments trains, before it is wrapped. Of several
such models it is the first that the checkpoint fits; one that no optimizer trains, such as a teacher, is left alone.

With FSDP2 the one model of a call is filled when it is sharded, and the optimizer has its new parameters: each process
reads its part, of the optimizer's state, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from preheat.context import CheckpointContext
from preheat.errors import CheckpointError, CheckpointIncompatibleError
from preheat.ranks import all_or_none
from preheat.shim.apply import apply_to, is_applied, note
from preheat.shim.hooks import wrap_known
from preheat.shim.starting import beginning
from preheat.spec import PipelineSpec
from preheat.stage import LoadingStrategy

_OWN_WAYS = frozenset(("DEEPSPEED", "FSDP", "MEGATRON_LM", "TP", "XLA"))

#: Models that a framework on top of Accelerate wants filled when they are sharded, and how.
_awaited: WeakKeyDictionary[Any, Callable[[], None]] = WeakKeyDictionary()


def install() -> None:
    """Wrap the Accelerator, whose module is imported already."""
    wrap_known(sys.modules["accelerate.accelerator"].Accelerator, {"prepare": _prepare})


def is_sharded(accelerator: Any) -> bool:
    """Whether `prepare` shards models by FSDP2, where parameters and optimizers stay torch's own."""
    return bool(getattr(accelerator, "is_fsdp2", False))  # older ones have no FSDP2


def require_known(accelerator: Any) -> None:
    """Raise CheckpointIncompatibleError where optimizers are made anew, so that what they have would be lost."""
    if (kind := accelerator.distributed_type.name) in _OWN_WAYS and not is_sharded(accelerator):
        fsdp = kind == "FSDP"
        raise CheckpointIncompatibleError(
            f"the training goes by {'FSDP1' if fsdp else kind}, which restores optimizers in its own way; that is not "
            "supported",
            remedy=f"Use {'fsdp_version=2, ' if fsdp else ''}weightsOnly, or the resuming of the framework",
        )


def stages_when_sharded(accelerator: Any) -> PipelineSpec | None:
    """What can be done to a model when `prepare` has sharded it, each process its part; all processes ask.

    None: it is done before. Modifiers come before optimizers; where nothing can be opened, filling the model says why.
    """
    spec = _stages(accelerator)
    return spec if spec and _is_alone(spec) else None


def _stages(accelerator: Any) -> PipelineSpec | None:
    """What this process is to do where models are sharded; None where it cannot be told."""
    if not is_sharded(accelerator):
        return None
    try:
        with all_or_none("open", "look what there is") as ranks:
            return PipelineSpec(tuple(beginning(ranks).pipeline().stages))
    except CheckpointError:
        return None


def when_sharded(model: Any, fill: Callable[[], None]) -> None:
    """Let `fill` be called, in place of what is done here, when `prepare` has sharded the model."""
    _awaited[model] = fill


def is_awaited(model: Any) -> bool:
    """Whether it is to be filled when it is sharded."""
    return model in _awaited


def _prepare(accelerator: Any, prepare: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    from torch.nn import Module

    known = [each for each in (*args, *getattr(accelerator, "_models", ())) if isinstance(each, Module)]
    candidates = [model for model in known if any(_trains(each, model) for each in args)]
    filled = next((part for model in known for part in model.modules() if is_applied(part)), None)
    if candidates and filled is None and _waits(accelerator, candidates[0]):
        return _fill_sharded(accelerator, prepare, args, kwargs, candidates[0])
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


def _waits(accelerator: Any, model: Any) -> bool:
    """An optimizer's state can only be restored to the parameters that it has when the model is sharded."""
    if is_awaited(model):
        return True
    spec = _stages(accelerator)
    return spec is not None and (spec.takes_training_state or _is_alone(spec))


def _is_alone(spec: PipelineSpec) -> bool:
    """Whether there is a strategy and no modifier, of which most want the model whole."""
    return all(isinstance(stage, LoadingStrategy) for stage in spec.stages)


def _fill_sharded(accelerator: Any, prepare: Callable[..., Any], args: Sequence[Any], kwargs: Any, model: Any) -> Any:
    """It stays the same object, as the optimizer does, whose parameters become the new ones; FSDP2 takes no second."""
    prepared = prepare(*args, **kwargs)
    if fill := _awaited.pop(model, None):
        fill()
    else:
        apply_to(_context(accelerator, model, args))
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
        model=model, optimizer=optimizers, scheduler=schedulers, resumable=lambda _: require_known(accelerator)
    )


def _trains(each: Any, model: Any) -> bool:
    from torch.optim import Optimizer

    if not isinstance(each, Optimizer):
        return False
    own = {id(parameter) for parameter in model.parameters()}
    return any(id(parameter) in own for group in each.param_groups for parameter in group["params"])
