"""The layers that `quantize` and `prune` work on, and the tensors that neither can: asked before any is touched."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from preheat.errors import CheckpointIncompatibleError, NothingMatchedError
from preheat.paths import holds, meant
from preheat.strategies.filling.shards import is_spread
from preheat.strategies.flattened import is_flattened
from preheat.strategies.targets import memory_key
from preheat.strategies.wrapping import plain

#: Attention computes with the weight of this layer of its own and never calls it: hooks and adapters do nothing there.
NEVER_CALLED = torch.nn.modules.linear.NonDynamicallyQuantizableLinear

_EARLIER = "Apply the checkpoint before the model is wrapped or sharded"


def layers_at(
    model: torch.nn.Module, paths: Iterable[str], suits: Callable[[Any], bool], kind: str
) -> dict[str, torch.nn.Module]:
    """Modules at and below the paths that suit, each once, by name.

    Raises NothingMatchedError naming the paths at which there is no such `kind`.
    """
    named = {plain(name): module for name, module in model.named_modules(remove_duplicate=False) if name}
    faults, found = [], {}
    for path in paths:
        below = {name: module for name, module in named.items() if holds(path, name)}
        suiting = {id(module): (name, module) for name, module in below.items() if suits(module)}
        if not suiting:
            faults.append(f"{path!r}{f' ({_kinds(below.values())})' if below else meant(path, named)}")
        found.update(suiting)
    if faults:
        raise NothingMatchedError(
            f"there is no {kind} at {', '.join(faults)}", remedy="Give dotted paths as in model.named_modules()"
        )
    return dict(found.values())


def check_whole(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise CheckpointIncompatibleError unless these tensors of the model are plain ones of this process alone."""
    if is_flattened(model):
        raise _unfit("the model", "is wrapped in FSDP, which has joined its parameters", _EARLIER)
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise _unfit(name, "is on the meta device and has no values", "Load a checkpoint into it first")
        if is_spread(tensor):
            raise _unfit(name, "is spread over several processes", _EARLIER)
        if is_traceable_wrapper_subclass(tensor):
            raise _unfit(name, f"is quantized already ({type(tensor).__name__})", "Name each layer in one stage")


def check_untied(model: torch.nn.Module, chosen: Mapping[str, torch.Tensor]) -> None:
    """Raise CheckpointIncompatibleError for a tensor that another module holds as well: it would change with it."""
    owners: dict[Hashable, list[str]] = {}
    for path, module in model.named_modules():
        for name, tensor in module._parameters.items():
            if tensor is not None:
                owners.setdefault(memory_key(tensor), []).append(plain(f"{path}.{name}" if path else name))
    for name, tensor in chosen.items():
        if len(tied := owners.get(memory_key(tensor), [])) > 1:
            raise _unfit(name, f"is one tensor under the names {', '.join(tied)}", "Leave it out, or untie them")


def _unfit(name: str, why: str, remedy: str) -> CheckpointIncompatibleError:
    return CheckpointIncompatibleError(f"{name} {why}", remedy=remedy)


def _kinds(modules: Iterable[torch.nn.Module]) -> str:
    return f"it is {', '.join(dict.fromkeys(type(module).__name__ for module in modules))}"
