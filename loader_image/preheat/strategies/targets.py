"""The tensors of a model by the names that a checkpoint uses, and the models that are refused untouched."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from preheat.errors import CheckpointIncompatibleError
from preheat.module_tree import tensors_within
from preheat.strategies.filling.shards import is_plain, local
from preheat.strategies.filling.tensors import dtype_name
from preheat.strategies.flattened import gathered_state, is_flattened
from preheat.strategies.matching import Entry
from preheat.strategies.partitioned import is_deepspeeds, is_overwritten

#: Every stage of ZeRO keeps its own copies of the weights, from which each step writes them anew.
_TAKEN = (
    "is DeepSpeed's, whose optimizer has copies of the weights that would overwrite what is loaded",
    "Apply the checkpoint before deepspeed.zero.Init or deepspeed.initialize takes the model",
)


def tensors_of(model: Any) -> dict[str, torch.Tensor]:
    """The model's own parameters and persistent buffers by the names of its `state_dict`; all of them can be filled."""
    tensors = named_tensors(model)
    check_fillable(model, tensors)
    return tensors


def named_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers of any kind, by the names of the model's `state_dict`."""
    if not isinstance(model, torch.nn.Module):
        raise CheckpointIncompatibleError(f"{type(model).__name__} is not a torch.nn.Module")
    state = gathered_state(model) if is_flattened(model) else model.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}  # not _extra_state


def check_fillable(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise CheckpointIncompatibleError for one of the model's `tensors` into which nothing can be written in place."""
    if is_deepspeeds(model):
        raise CheckpointIncompatibleError(f"{type(model).__name__} {_TAKEN[0]}", remedy=_TAKEN[1])
    for name, tensor in tensors.items():
        if reason := _unsupported(tensor):
            raise CheckpointIncompatibleError(f"parameter {name!r} {reason[0]}", remedy=reason[1])
    _refuse_copies(model, tensors)


def buffers_of(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> frozenset[str]:
    """The names of those of the model's `tensors` that are buffers."""
    own = {id(buffer) for buffer in model.buffers()}
    return frozenset(name for name, tensor in tensors.items() if id(tensor) in own)


def entries_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Entry]:
    """What matching needs to know of each tensor."""
    return {n: Entry(dtype_name(t.dtype), tuple(t.shape), memory_key(t)) for n, t in tensors.items()}


def memory_key(tensor: torch.Tensor) -> Hashable:
    """Equal for tensors that are the same elements of the same memory: tied parameters."""
    held = local(tensor)
    if not held.numel():
        return id(tensor)
    memory = _storage(held) if held.is_meta else held.data_ptr()  # on the meta device all pointers are null
    return held.device, memory, held.storage_offset(), tuple(held.shape), held.stride()


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _unsupported(tensor: torch.Tensor) -> tuple[str, str] | None:
    if not is_plain(tensor):
        if is_lazy(tensor):
            return "has no shape yet", "Run one batch through the model before its checkpoint is applied"
        tensor = local(tensor)
        if is_traceable_wrapper_subclass(tensor):
            kind = type(tensor).__name__
            return f"is a {kind}; such parameters are not supported yet", "Apply it before they are made"
    if is_overwritten(tensor):
        return _TAKEN
    if not is_dense(tensor):
        return f"is {tensor.layout}, not dense", "Make it dense before the checkpoint is applied"
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        return (
            "was made in inference mode, so nothing can be written to it",
            "Build the model outside of inference mode",
        )
    return None


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether all of its elements lie in memory as they are."""
    return tensor.layout == torch.strided and not tensor.is_quantized


def _refuse_copies(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """A hook may hand out copies; what is loaded into those never reaches the model."""
    objects = {id(tensor) for tensor in tensors_within(model)}
    others = {name: tensor for name, tensor in tensors.items() if id(tensor) not in objects}
    own = {_storage(local(tensor)) for tensor in tensors_within(model)} if others else ()
    for name, tensor in others.items():
        if _storage(local(tensor)) not in own:
            raise CheckpointIncompatibleError(
                f"state_dict() of {type(model).__name__} hands out a copy of {name!r}, not the model's own tensor",
                remedy="Apply the checkpoint to the submodule that owns it",
            )
