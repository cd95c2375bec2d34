"""Casts tensors of a model to the types that a `precision` stage asks for.

What each tensor becomes is decided before the first one is touched. The cast itself is torch's own (`Module._apply`,
which is behind `Module.to`): parameters stay the same objects, and FSDP2 and recurrent layers keep up with it.
Integers, booleans, complex and 8-bit floating types are never cast; quantized tensors are refused.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from preheat.amounts import count_of
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, NothingMatchedError
from preheat.modifiers.norms import is_norm
from preheat.paths import holds, meant, some
from preheat.strategies.filling.shards import is_spread, local
from preheat.strategies.filling.tensors import dtype_name
from preheat.strategies.flattened import is_flattened
from preheat.strategies.loading import touching
from preheat.strategies.resuming import listed
from preheat.strategies.targets import memory_key
from preheat.strategies.wrapping import plain

if TYPE_CHECKING:
    from preheat.modifiers.precision import PrecisionModifier

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_CAST = frozenset((torch.float64, *_DTYPES.values()))
_BEFORE = "Apply the checkpoint before the model is wrapped"
_FIRST = "Apply the checkpoint before the model's first step"


@dataclass
class Held:
    """One piece of memory: the tensors that are it, usually one, and the type that each of their names asks for."""

    tensors: dict[int, torch.Tensor] = field(default_factory=dict)  # by id
    wanted: dict[str, torch.dtype] = field(default_factory=dict)  # by name
    before: torch.dtype = torch.float32

    @property
    def after(self) -> torch.dtype:
        """The type that it gets."""
        return next(iter(self.wanted.values()))


def cast(context: CheckpointContext, stage: PrecisionModifier) -> CheckpointContext:
    """Cast what the stage names; raises before anything is changed, or says that the model was touched."""
    context.validate_for_stage("precision", ["model"])
    model = context.model
    held = _held(model, stage)
    changed = [each for each in held if each.before != each.after]
    _refuse_ties(held)
    _refuse_kinds(model, changed)
    _refuse_trainer(context.pl_module)
    _refuse_groups(model, {key: each.after for each in held for key in each.tensors})
    _refuse_states(context.optimizer, changed)
    size = _size(held)
    with touching():
        _cast(model, changed)
    casts = {n: f"{dtype_name(each.before)} -> {dtype_name(each.after)}" for each in changed for n in each.wanted}
    entry = {
        "type": "precision",
        "says": _says(Counter(casts.values())),
        "total_cast_tensors": len(casts),
        "bytes_before": size,
        "bytes_after": _size(held),
        "tensors": casts,
    }
    context.metadata.setdefault("modifiers_applied", []).append(entry)
    return context


def _held(model: torch.nn.Module, stage: PrecisionModifier) -> list[Held]:
    found: dict[Hashable, Held] = {}
    named = {name: (tensor, normal) for name, tensor, normal in _own(model) if tensor.dtype in _CAST}
    _refuse_unmatched(stage, named, any(normal for _, normal in named.values()))
    for name, (tensor, normal) in named.items():
        each = found.setdefault(memory_key(tensor), Held(before=tensor.dtype))
        each.tensors[id(tensor)] = tensor
        each.wanted[name] = _wanted(name, tensor, normal, stage)
    return list(found.values())


def _own(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor, bool]]:
    """Parameters and buffers under all their names, and whether a normalisation layer holds them."""
    for path, module in model.named_modules(remove_duplicate=False):
        normal = is_norm(module)
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                yield plain(f"{path}.{name}" if path else name), tensor, normal


def _wanted(name: str, tensor: torch.Tensor, normal: bool, stage: PrecisionModifier) -> torch.dtype:
    if any(holds(path, name) for path in stage.keep):
        return tensor.dtype
    asked = (stage.norms if normal else None) or stage.dtype
    for rule in stage.rules:
        if any(holds(path, name) for path in rule.layers):
            asked = rule.dtype
    return _DTYPES[asked] if asked else tensor.dtype


def _refuse_unmatched(stage: PrecisionModifier, names: Iterable[str], norms: bool) -> None:
    names = list(names)
    known = [*names, *dict.fromkeys(".".join(name.split(".")[:-1]) for name in names)]
    paths = [*stage.keep, *(path for rule in stage.rules for path in rule.layers)]
    faults = [f"{path!r}{meant(path, known)}" for path in paths if not any(holds(path, name) for name in names)]
    if faults or not names:
        raise NothingMatchedError(
            f"no floating-point tensor at {', '.join(faults) or 'all'}",
            remedy="Give dotted paths as in model.named_modules()",
        )
    if stage.norms and not norms:
        raise NothingMatchedError("the model has no normalisation layer", remedy="Leave norms out")


def _refuse_ties(held: Iterable[Held]) -> None:
    for each in held:
        if len(set(each.wanted.values())) > 1:
            asked = ", ".join(f"{name} {dtype_name(dtype)}" for name, dtype in each.wanted.items())
            raise CheckpointIncompatibleError(
                f"tied tensors cannot differ in their types: {asked}", remedy="Name all of them in one rule"
            )


def _refuse_kinds(model: torch.nn.Module, changed: Iterable[Held]) -> None:
    if is_flattened(model):
        raise CheckpointIncompatibleError("FSDP has joined the parameters into flat ones, of one type", remedy=_BEFORE)
    if any(isinstance(module, torch.nn.parallel.DistributedDataParallel) for module in model.modules()):
        raise CheckpointIncompatibleError(
            "DistributedDataParallel has laid out gradients of the present types", remedy=_BEFORE
        )
    if any(map(_has_run_sharded, model.modules())):
        raise CheckpointIncompatibleError("FSDP has run the model in the present types", remedy=_FIRST)
    for each in changed:
        for tensor in map(local, each.tensors.values()):
            if torch.utils._python_dispatch.is_traceable_wrapper_subclass(tensor):
                raise CheckpointIncompatibleError(
                    f"{next(iter(each.wanted))} is a {type(tensor).__name__}, which cannot be cast",
                    remedy="Put precision before quantize",
                )


def _has_run_sharded(module: torch.nn.Module) -> bool:
    """FSDP2 notes the types of what it shards when it runs a module for the first time."""
    state = getattr(module, "_get_fsdp_state", lambda: None)()
    return getattr(state, "_is_root", None) is not None


def _refuse_trainer(pl_module: Any) -> None:
    asked = str(getattr(getattr(pl_module, "_trainer", None), "precision", ""))
    if asked.endswith("-true") and asked != "32-true":
        raise CheckpointConfigError(
            f"the Trainer's precision={asked!r} casts the whole model after this stage",
            remedy="Give the Trainer precision='32-true' or 'bf16-mixed', or leave this stage out",
        )


def _refuse_groups(model: torch.nn.Module, after: Mapping[int, torch.dtype]) -> None:
    """FSDP2 moves what it shards together as one buffer, and finds out in the first step that its types differ."""
    for path, parameters in _groups(model).items():
        kinds = {after.get(id(p), p.dtype) for p in parameters if p.requires_grad and is_spread(p)}
        if len(kinds) > 1:
            raise CheckpointIncompatibleError(
                f"FSDP shards the parameters of {path or 'the model'!r} together, and they would be "
                f"{' and '.join(sorted(map(dtype_name, kinds)))}",
                remedy="Give them one type, or fully_shard() the layers of another type by themselves",
            )


def _groups(model: torch.nn.Module) -> dict[str, list[torch.nn.Parameter]]:
    """The parameters that are sharded together, by the path of the module that `fully_shard` was called with."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # a model can only be sharded by what is imported
    heads = [path for path, module in model.named_modules() if fsdp and isinstance(module, fsdp.FSDPModule)]
    groups: dict[str, list[torch.nn.Parameter]] = {path: [] for path in heads}
    for name, parameter in model.named_parameters():
        above = [path for path in heads if not path or name.startswith(f"{path}.")]
        if above:
            groups[max(above, key=len)].append(parameter)
    return groups


def _refuse_states(optimizer: Any, changed: Iterable[Held]) -> None:
    names = {key: next(iter(each.wanted)) for each in changed for key in each.tensors}
    for each in listed(optimizer):
        kept = [names[id(p)] for p, state in each.state.items() if state and id(p) in names]
        if kept:
            raise CheckpointIncompatibleError(
                f"the optimizer holds the state of {some(kept)} in the type that they have now",
                remedy="Build the model in the type that it is to have: the checkpoint is cast as it is loaded",
            )


def _cast(model: torch.nn.Module, changed: Iterable[Held]) -> None:
    keys = {key: each for each in changed for key in each.tensors}
    made: dict[int, torch.Tensor] = {}

    def convert(tensor: torch.Tensor) -> torch.Tensor:
        if (each := keys.get(id(tensor))) is None:
            return tensor
        if id(each) not in made:
            made[id(each)] = tensor.to(each.after)
        if isinstance(tensor, torch.nn.Parameter) or is_spread(tensor):
            return made[id(each)]
        tensor.data = made[id(each)]  # so that a buffer stays the same object, too
        return tensor

    for each in changed:
        for tensor in each.tensors.values():
            tensor.grad = None  # of other values, and of another type
    model._apply(convert)  # type: ignore[no-untyped-call]


def _size(held: Iterable[Held]) -> int:
    return sum(local(next(iter(each.tensors.values()))).nbytes for each in held)


def _says(casts: Mapping[str, int]) -> str:
    counts = ", ".join(f"{count_of(count, 'tensor')} {cast}" for cast, count in casts.items())
    return f"cast {counts}" if counts else "cast nothing: all tensors have their types already"
