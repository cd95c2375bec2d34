"""Which tensors of a model are its weights, under the names that a model has without its wrappers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, NothingMatchedError
from preheat.names import left_out
from preheat.paths import meant, some
from preheat.saving.tensors import check_savable
from preheat.strategies.flattened import is_flattened
from preheat.strategies.partitioned import is_deepspeeds, is_partitioned
from preheat.strategies.targets import memory_key
from preheat.strategies.wrapping import plain

log = logging.getLogger(__name__)

_DEEPSPEED = "Use FSDP2, or save_checkpoint of DeepSpeed's engine, whose folders Preheat reads"


@dataclass(frozen=True)
class Weights:
    """Distinct tensors by name, the model's own memory; `aliases` are the further names of tied ones."""

    tensors: Mapping[str, torch.Tensor]
    aliases: Mapping[str, str]


def unwrapped(model: Any) -> torch.nn.Module:
    """The model inside of DistributedDataParallel, DataParallel and torch.compile."""
    parallel = (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    while isinstance(model, parallel) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, parallel) else model._orig_mod
    if not isinstance(model, torch.nn.Module):
        raise CheckpointConfigError(f"preheat.save needs a torch.nn.Module, not {type(model).__name__}")
    if is_flattened(model):
        raise CheckpointIncompatibleError(
            "the model is wrapped in FullyShardedDataParallel, whose optimizer's state cannot be saved",
            remedy="Shard it with fully_shard (FSDP2), or save with torch.distributed.checkpoint, which Preheat reads",
        )
    if is_deepspeeds(model) or any(map(is_partitioned, model.parameters())):
        raise CheckpointIncompatibleError(
            "the model is DeepSpeed's, whose weights and optimizer's state lie in partitions", remedy=_DEEPSPEED
        )
    return model


def require_whole(optimizer: Any) -> None:
    """Raise CheckpointIncompatibleError for an optimizer of which each process has another part."""
    if is_deepspeeds(optimizer):
        raise CheckpointIncompatibleError("the optimizer is DeepSpeed's, whose state is partitioned", remedy=_DEEPSPEED)


def parameter_names(model: torch.nn.Module) -> dict[int, str]:
    """The names of the parameters by id, as the checkpoint has them."""
    return {id(parameter): plain(name) for name, parameter in model.named_parameters()}


def named_state(optimizer: Any, names: Mapping[int, str], state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state with the names of its parameters, which are found again by them in whatever order."""
    groups = []
    for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True):
        known = [names.get(id(parameter)) for parameter in group["params"]]
        groups.append({**saved, "param_names": known} if "param_names" not in saved and all(known) else saved)
    return {**state, "param_groups": groups}


def weights_of(model: torch.nn.Module) -> Weights:
    """All that `state_dict` gives; raises UnsupportedFormatError for what a file cannot hold."""
    state = {plain(name): value for name, value in model.state_dict().items()}
    if others := [name for name, value in state.items() if not isinstance(value, torch.Tensor)]:
        log.warning("not saved, since they are no tensors: %s", some(others))
    return distinct({name: value for name, value in state.items() if isinstance(value, torch.Tensor)})


def distinct(named: Mapping[str, torch.Tensor]) -> Weights:
    """Each tensor once; raises UnsupportedFormatError for what a file cannot hold."""
    first: dict[object, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in named.items():
        check_savable(name, tensor)
        known = first.setdefault((tensor.dtype, memory_key(tensor)), name)
        if known == name:
            tensors[name] = tensor
        else:
            aliases[name] = known
    return Weights(tensors, aliases)


def chosen(weights: Weights, part: str, select: Sequence[str]) -> Weights:
    """Those below `part`, and of these those in whose names a pattern of `select` is found."""
    names = [*weights.tensors, *weights.aliases]
    if part:
        inside = [name for name in names if name.startswith(f"{part}.")]
        if not inside:
            raise NothingMatchedError(
                f"the model has no weights in {part!r}{meant(part, _parts(names))}", remedy="Name a part of the model"
            )
        names = inside
    if select:
        left = left_out("preheat.save", names, select, ())
        names = [name for name in names if name not in left]
    every = {**weights.tensors, **{alias: weights.tensors[name] for alias, name in weights.aliases.items()}}
    return distinct({name: every[name] for name in names})


def _parts(names: Sequence[str]) -> set[str]:
    return {name[:at] for name in names for at, character in enumerate(name) if character == "."}
