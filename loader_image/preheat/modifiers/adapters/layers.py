"""Which layers of a model the targets of `lora` name, told before anything is changed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, NothingMatchedError
from preheat.modifiers.selection import NEVER_CALLED
from preheat.paths import fits, meant, some
from preheat.strategies.wrapping import plain

ALL_LINEAR = "all-linear"

_ADAPTABLE = (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
_ATTENTION = torch.nn.MultiheadAttention


def targeted(model: torch.nn.Module, targets: Iterable[str]) -> list[str]:
    """Names of the layers of `model`; raises NothingMatchedError naming the targets that name none."""
    found: dict[str, None] = {}
    faults = []
    modules = {name: module for name, module in model.named_modules() if name}
    for target in targets:
        if not (layers := list(_layers(model, modules, target))):
            faults.append(f"{target!r}{_reason(target, modules)}")
        found |= dict.fromkeys(layers)
    if faults:
        raise NothingMatchedError(
            f"nothing to adapt at {', '.join(faults)}", remedy="Give ends of dotted paths as in model.named_modules()"
        )
    return list(found)


def named(model: torch.nn.Module, targets: Iterable[str]) -> list[str]:
    """Names of the modules that `targets` name, of whatever kind; peft takes those that end with one of them, too."""
    known = [name for name, _ in model.named_modules() if name]
    found = {target: [name for name in known if ends(name, target)] for target in targets}
    if faults := [f"{target!r}{meant(target, map(plain, known))}" for target, names in found.items() if not names]:
        raise NothingMatchedError(
            f"nothing to train at {', '.join(faults)}", remedy="Give ends of dotted paths as in model.named_modules()"
        )
    chosen = [name for names in found.values() for name in names]
    if others := [name for name in known if name.endswith(tuple(chosen)) and name not in chosen]:
        raise CheckpointConfigError(
            f"peft would train {some(others)}, too, whose names end like {some(chosen)}", remedy="Name them as well"
        )
    return chosen


def ends(name: str, target: str) -> bool:
    """Whether `name` is, or ends with, what `target` names."""
    return fits(".".join(plain(name).split(".")[-(target.count(".") + 1) :]), target)


def exactly(model: torch.nn.Module, layers: Iterable[str]) -> list[str]:
    """The modules of these whole names, under which a checkpoint has adapters."""
    own = {plain(name): name for name, _ in model.named_modules()}
    if faults := [f"{name!r}{meant(name, own)}" for name in layers if name not in own]:
        raise CheckpointIncompatibleError(
            f"the checkpoint has adapters for {some(faults)}, which the model does not have",
            remedy="Rename them with convert or by the strategy, or correct the model",
        )
    return [own[name] for name in layers]


def for_peft(model: torch.nn.Module, layers: Sequence[str], targets: Sequence[str]) -> list[str] | str:
    """What peft, which takes ends of names or a regular expression, has to be told to adapt exactly `layers`."""
    known = [name for name, _ in model.named_modules() if name]
    for told in (list(targets), list(layers)):
        if told and {name for name in known if name in told or name.endswith(tuple(f".{t}" for t in told))} == {
            *layers
        }:
            return told
    return "|".join(map(re.escape, layers))


def _layers(model: torch.nn.Module, modules: dict[str, torch.nn.Module], target: str) -> Iterator[str]:
    if target == ALL_LINEAR:
        yield from _linear(model, modules, lambda name: True)
        return
    for name, module in modules.items():
        if not ends(name, target):
            continue
        if isinstance(module, (*_linear_kinds(), *_ADAPTABLE, _ATTENTION)):
            if not isinstance(module, NEVER_CALLED):
                yield name
        else:
            yield from _linear(model, modules, lambda inner, outer=f"{name}.": inner.startswith(outer))  # type: ignore[misc]


def _linear(
    model: torch.nn.Module, modules: dict[str, torch.nn.Module], chosen: Callable[[str], bool]
) -> Iterator[str]:
    """Linear layers, as peft takes them: without the last one of a language model, which makes words of vectors."""
    outputs = {id(output) for output in map(_output, model.modules()) if output is not None}
    for name, module in modules.items():
        linear = isinstance(module, _linear_kinds()) and not isinstance(module, NEVER_CALLED)
        if linear and id(module) not in outputs and chosen(name):
            yield name


def _output(module: Any) -> Any:
    """The output embeddings of a model of Transformers."""
    transformers = sys.modules.get("transformers.modeling_utils")
    return module.get_output_embeddings() if transformers and isinstance(module, transformers.PreTrainedModel) else None


def _linear_kinds() -> tuple[type[torch.nn.Module], ...]:
    transformers = sys.modules.get("transformers.pytorch_utils")
    return (torch.nn.Linear, transformers.Conv1D) if transformers else (torch.nn.Linear,)


def _reason(target: str, modules: Iterable[str]) -> str:
    known = [plain(name) for name in modules]
    there = any(ends(name, target) for name in known)
    return " (there is no layer in it that an adapter can be put beside)" if there else meant(target, known)
