"""Freezes parameters by path, and says exactly what that changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from preheat.amounts import count_of
from preheat.context import CheckpointContext
from preheat.errors import NothingMatchedError
from preheat.modifiers.norms import is_norm
from preheat.paths import fits, meant, some
from preheat.strategies.wrapping import plain


@dataclass(frozen=True)
class Frozen:
    """What one path selects: the parameters by name, tied ones once, and the modules that it names."""

    path: str
    parameters: dict[str, Any]
    modules: list[Any]


def freeze(
    context: CheckpointContext,
    layers: Iterable[str],
    *,
    strict: bool,
    eval_mode: bool = False,
    eval_norms: bool = False,
) -> CheckpointContext:
    """Clear `requires_grad` of everything that the paths select; raises before anything is changed."""
    context.validate_for_stage("freezing", ["model"])
    selected = [select(context.model, path) for path in layers]
    empty = [found.path for found in selected if not found.parameters]
    if empty and (strict or len(empty) == len(selected)):
        raise _nothing_matched(context.model, empty)
    kept = _to_keep(selected, eval_mode, eval_norms)
    applied = [_freeze(found) for found in selected]
    keep_in_eval_mode(kept)
    entry = {
        "type": "freezing",
        "layers": [found.path for found in selected],
        "frozen_modules": applied,
        "total_frozen_params": sum(one["frozen_params"] for one in applied),
        "total_frozen_elements": sum(one["frozen_elements"] for one in applied),
        "already_frozen_params": sum(one["already_frozen_params"] for one in applied),
        "eval_modules": len(kept),
        "unmatched": empty,
    }
    entry["says"] = _says(entry)
    context.metadata.setdefault("modifiers_applied", []).append(entry)
    return context


def select(model: Any, path: str) -> Frozen:
    """The parameters below every module that `path` names, and those that it names themselves."""
    named = [(plain(name), module) for name, module in model.named_modules(remove_duplicate=False)]
    modules = [module for name, module in named if name and fits(name, path)]
    chosen = {id(parameter) for module in modules for parameter in module.parameters()}
    chosen |= {id(p) for name, p in model.named_parameters(remove_duplicate=False) if fits(plain(name), path)}
    return Frozen(path, {name: p for name, p in model.named_parameters() if id(p) in chosen}, modules)


def _to_keep(selected: Iterable[Frozen], everything: bool, norms: bool) -> list[Any]:
    """The modules that stay in eval mode, each once."""
    if not everything and not norms:
        return []
    found = {id(module): module for each in selected for top in each.modules for module in top.modules()}
    kept = [module for module in found.values() if everything or is_norm(module)]
    if norms and not any(map(is_norm, kept)):
        raise NothingMatchedError(
            f"there is no normalisation layer in {some(each.path for each in selected)}", remedy="Leave evalNorms out"
        )
    return kept


def keep_in_eval_mode(modules: Iterable[Any]) -> None:
    """Put these modules, not what is in them, in eval mode for good.

    `model.train()` still sets their flag; it is taken back before each forward pass, by a hook that can be copied and
    pickled with the model, which a replaced `train` method cannot.
    """
    for module in modules:
        _leave_training(module)
        module.register_forward_pre_hook(_leave_training)


def _leave_training(module: Any, _inputs: Any = None) -> None:
    module.training = False


def _freeze(found: Frozen) -> dict[str, Any]:
    """Counts are of tensors and of their elements; what an earlier path or the user froze is counted apart."""
    fresh = [parameter for parameter in found.parameters.values() if parameter.requires_grad]
    for parameter in fresh:
        parameter.requires_grad_(False)
        parameter.grad = None  # an optimizer would still take a step along it
    return {
        "name": found.path,
        "frozen_params": len(fresh),
        "frozen_elements": sum(parameter.numel() for parameter in fresh),
        "already_frozen_params": len(found.parameters) - len(fresh),
    }


def _says(entry: Mapping[str, Any]) -> str:
    layers = [path for path in entry["layers"] if path not in entry["unmatched"]]
    kept = f", {count_of(entry['eval_modules'], 'module')} in eval mode" if entry["eval_modules"] else ""
    lost = f", nothing at {some(entry['unmatched'])}" if entry["unmatched"] else ""
    return f"frozen {count_of(entry['total_frozen_params'], 'tensor')} ({some(layers)}){kept}{lost}"


def _nothing_matched(model: Any, paths: Iterable[str]) -> NothingMatchedError:
    known = [plain(name) for name, _ in [*model.named_modules(), *model.named_parameters()] if name]
    faults = [f"{path!r}{_reason(path, known)}" for path in paths]
    return NothingMatchedError(
        f"nothing to freeze at {', '.join(faults)}", remedy="Give dotted paths as in model.named_modules()"
    )


def _reason(path: str, known: list[str]) -> str:
    return " (it has no parameters)" if any(fits(name, path) for name in known) else meant(path, known)
