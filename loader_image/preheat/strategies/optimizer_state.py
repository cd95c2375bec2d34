"""Which entry of an optimizer's saved state belongs to which parameter of the optimizer at hand.

torch numbers parameters, so a state fits another model's optimizer as long as the counts agree, and nobody notices.
Here entries are matched by name where the checkpoint has names (torch's own `param_names`, or names for numbers), else
by position; what can be compared is compared, and nothing is touched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from preheat.errors import CheckpointIncompatibleError
from preheat.formats.optimizer_names import names_of
from preheat.strategies.filling.shards import is_spread, target_of
from preheat.strategies.partitioned import is_overwritten
from preheat.strategies.wrapping import followed

#: Entries of torch's own optimizers that have the shape of their parameter.
_LIKE_PARAMETER = frozenset(
    ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "grad_avg", "acc_delta",
     "sum", "prev", "step_size", "ax")
)  # fmt: skip
#: What schedulers and newer versions of torch add to a group: says nothing about the kind of optimizer.
_ADDED = frozenset(
    ("params", "param_names", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr", "foreach",
     "fused", "capturable", "differentiable", "maximize", "decoupled_weight_decay")
)  # fmt: skip
_SHOWN = 3
_FRESH = "Build the optimizer as the checkpoint's was, or start a fresh one with weightsOnly or coldStart"


@dataclass(frozen=True)
class Matched:
    """A state for `optimizer.load_state_dict`, its tensors not read yet."""

    state: Mapping[str, Any]
    parameters: int
    named: bool  # matched by name, not by position
    spread: Mapping[int, torch.Tensor] = field(default_factory=dict)  # parameters of several processes, by position


def match_optimizer(
    saved: Mapping[str, Any], optimizer: Any, names: Mapping[int, str], fresh: Collection[int] = ()
) -> Matched:
    """`saved` with the parameters in the order of `optimizer`; `names` are those of the model's, by id.

    Those of `fresh`, by id, get no state, whether the checkpoint has one or not.
    Raises CheckpointIncompatibleError that says how groups, parameters or shapes differ.
    """
    theirs, ours = saved["param_groups"], optimizer.param_groups
    _compare_groups(theirs, ours, type(optimizer).__name__)
    states: dict[int, Any] = {}
    spread: dict[int, torch.Tensor] = {}
    groups: list[dict[str, Any]] = []
    known: set[Any] = set()
    named, restored = True, 0
    for number, (given, group) in enumerate(zip(theirs, ours, strict=True)):
        _compare_kinds(number, given, group)
        own = _names_of(group, names)
        keys, by_name = _in_order(number, given, own, [id(parameter) in fresh for parameter in group["params"]])
        named &= by_name
        first = sum(len(each["params"]) for each in groups)
        for position, (key, name, parameter) in enumerate(zip(keys, own, group["params"], strict=True), first):
            _refuse_unsupported(name, parameter, names)
            if is_spread(parameter):
                spread[position] = parameter
            if key in saved["state"]:
                _compare_shapes(name, saved["state"][key], parameter)
                states[position] = saved["state"][key]
        known.update(given["params"])
        restored += sum(key is not None for key in keys)
        groups.append(_group(given, group, range(first, first + len(keys))))
    if strangers := [key for key in saved["state"] if key not in known]:
        raise CheckpointIncompatibleError(
            f"the checkpoint's optimizer has a state for {_some(strangers)}, of no group", remedy=_FRESH
        )
    return Matched({"state": states, "param_groups": groups}, restored, named, spread)


def _group(given: Mapping[str, Any], group: Mapping[str, Any], positions: Iterable[int]) -> dict[str, Any]:
    """The checkpoint's hyper-parameters, and ours where its torch did not know them."""
    merged = {**{key: value for key, value in group.items() if key != "params"}, **given, "params": list(positions)}
    merged.pop("param_names", None)  # torch refuses further groups without names beside one that has them
    return {**merged, "param_names": group["param_names"]} if "param_names" in group else merged


def _compare_groups(theirs: list[Any], ours: list[Any], kind: str) -> None:
    sizes = [[len(group["params"]) for group in groups] for groups in (theirs, ours)]
    if len(theirs) != len(ours):
        raise CheckpointIncompatibleError(
            f"the checkpoint's optimizer has {_counted(sizes[0])}, {kind} has {_counted(sizes[1])}", remedy=_FRESH
        )


def _counted(sizes: list[int]) -> str:
    groups = "1 parameter group" if len(sizes) == 1 else f"{len(sizes)} parameter groups"
    return f"{groups} (of {', '.join(map(str, sizes[:8]))} parameters)"


def _compare_kinds(number: int, given: Mapping[str, Any], group: Mapping[str, Any]) -> None:
    """Another class of optimizer has other hyper-parameters; one side alone may have some that the other lacks."""
    theirs, ours = given.keys() - group.keys() - _ADDED, group.keys() - given.keys() - _ADDED
    if theirs and ours:
        raise CheckpointIncompatibleError(
            f"parameter group {number} of the checkpoint's optimizer has {', '.join(sorted(theirs))}, the optimizer's "
            f"has {', '.join(sorted(ours))}: it is another kind of optimizer",
            remedy=_FRESH,
        )


def _names_of(group: Mapping[str, Any], names: Mapping[int, str]) -> list[str]:
    """As torch calls them, if it does, else as the model does."""
    given = group.get("param_names")
    if given is not None and len(given) == len(group["params"]):
        return list(given)
    return [names.get(id(each), f"parameter {position}") for position, each in enumerate(group["params"])]


def _in_order(number: int, given: Mapping[str, Any], own: list[str], fresh: list[bool]) -> tuple[list[Any], bool]:
    """The checkpoint's keys of a group's parameters in the order of `own`, and whether names said so.

    None for a parameter that gets no state.
    """
    keys, theirs = given["params"], names_of(given)
    if theirs is None:
        if len(keys) != len(own):
            raise CheckpointIncompatibleError(
                f"parameter group {number} of the checkpoint's optimizer has {len(keys)} parameters, the optimizer's "
                f"has {len(own)}",
                remedy=_FRESH,
            )
        return [None if new else key for key, new in zip(keys, fresh, strict=True)], False
    wrapped = followed(theirs, own)
    by_name = {wrapped.get(name, name): key for name, key in zip(theirs, keys, strict=True)}
    known, without = set(own), {name for name, new in zip(own, fresh, strict=True) if new}
    added = [name for name in own if name not in by_name and name not in without]
    removed = [name for name in by_name if name not in known]
    if added or removed:
        said = [f"{word} {_some(those)}" for word, those in (("without", added), ("with", removed)) if those]
        raise CheckpointIncompatibleError(
            f"parameter group {number} of the checkpoint's optimizer is one {' and '.join(said)}, "
            "unlike the optimizer's",
            remedy=_FRESH,
        )
    return [None if name in without else by_name[name] for name in own], True


def _refuse_unsupported(name: str, parameter: torch.Tensor, names: Mapping[int, str]) -> None:
    if parameter.is_meta and id(parameter) not in names:
        raise CheckpointIncompatibleError(
            f"the optimizer's parameter {name} is on the meta device, and not one of the model, which is to get memory",
            remedy="Build the optimizer from the parameters of the model that is given",
        )
    if is_overwritten(parameter):
        raise CheckpointIncompatibleError(
            f"the optimizer's parameter {name} is DeepSpeed's, which makes optimizers over",
            remedy="Use FSDP2, or DeepSpeed's own load_checkpoint",
        )
    held = target_of(name, parameter).tensor
    if is_traceable_wrapper_subclass(held):
        raise CheckpointIncompatibleError(
            f"the optimizer's parameter {name} is a {type(held).__name__}; the state of such parameters is not "
            "restored yet",
            remedy="Restore it before they are made, or start a fresh optimizer with weightsOnly",
        )


def _compare_shapes(name: str, state: Any, parameter: torch.Tensor) -> None:
    for key, value in state.items() if isinstance(state, Mapping) else ():
        shape = getattr(value, "shape", None)
        if key in _LIKE_PARAMETER and shape is not None and tuple(shape) != tuple(parameter.shape):
            raise CheckpointIncompatibleError(
                f"the optimizer's {key} of {name} has shape {list(shape)} in the checkpoint, the parameter "
                f"{list(parameter.shape)}",
                remedy=_FRESH,
            )


def _some(names: Iterable[Any]) -> str:
    names = [str(name)[:120] for name in names]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
