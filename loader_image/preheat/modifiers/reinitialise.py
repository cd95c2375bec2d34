"""Re-initialises submodules as they were constructed: inner modules first, each by the method it was made with.

With the same seed a reset layer holds what a newly built one would hold. Values are drawn from torch's own generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from preheat.amounts import count_of
from preheat.context import CheckpointContext
from preheat.errors import CheckpointIncompatibleError, NothingMatchedError
from preheat.paths import fits, holds, meant, some
from preheat.strategies.flattened import is_flattened
from preheat.strategies.loading import touching
from preheat.strategies.memory import initialiser
from preheat.strategies.wrapping import plain


def reinitialise(context: CheckpointContext, layers: tuple[str, ...]) -> CheckpointContext:
    """Reset every module that `layers` name; raises before anything is changed, or says that the model was touched."""
    context.validate_for_stage("reset", ["model"])
    model = context.model
    if is_flattened(model):
        raise CheckpointIncompatibleError(
            "FSDP has joined the parameters into flat ones, which no layer can initialise",
            remedy="Apply the checkpoint before the model is wrapped",
        )
    _refuse_unmatched(model, layers)
    named = {id(m): (n, m) for n, m in _modules(model) if _named(n, layers)}
    chosen = [named[key] for key in dict.fromkeys(map(id, _inner_first(model))) if key in named]
    resets = [method for name, module in chosen if (method := _method(name, module))]
    parameters = {id(p): p for _, module in chosen for p in module.parameters(recurse=False)}
    _refuse_tied(model, layers, parameters)
    with touching(), torch.no_grad():
        for reset in resets:
            reset()
    entry = {
        "type": "reset",
        "layers": list(layers),
        "says": f"reset {count_of(len(parameters), 'tensor')} ({some(layers)})",
        "total_reset_modules": len(resets),
        "total_reset_params": len(parameters),
        "total_reset_elements": sum(parameter.numel() for parameter in parameters.values()),
    }
    context.metadata.setdefault("modifiers_applied", []).append(entry)
    return context


def _modules(model: Any) -> Iterator[tuple[str, Any]]:
    """All but the model itself, without the names of wrappers."""
    for name, module in model.named_modules(remove_duplicate=False):
        if own := plain(name):
            yield own, module


def _named(name: str, layers: Iterable[str]) -> bool:
    return any(holds(path, name) for path in layers)


def _inner_first(module: Any) -> Iterator[Any]:
    """A module after everything in it, in the order of construction; one that is held twice comes twice."""
    for child in module.children():
        yield from _inner_first(child)
    yield module


def _method(name: str, module: Any) -> Callable[[], object] | None:
    """How `module` initialises what is its own; None for one that only holds others."""
    method = initialiser(module)
    if method is None and any(True for _ in module.parameters(recurse=False)):
        raise CheckpointIncompatibleError(
            f"{name!r} cannot be reset: {type(module).__name__} has parameters and no reset_parameters()",
            remedy="Give the class that method, or keep the layer's initial values with cold_start's reset_layers",
        )
    return method


def _refuse_unmatched(model: Any, layers: Iterable[str]) -> None:
    modules = [name for name, _ in _modules(model)]
    names = [plain(name) for name, _ in model.named_parameters(remove_duplicate=False)]
    owners = {name: name.rpartition(".")[0] for name in names}
    faults = []
    for path in layers:
        if any(fits(name, path) for name in modules):
            continue
        owner = next((owners[name] for name in owners if fits(name, path)), "")
        hint = f" (a parameter is reset with its module, {owner!r})" if owner else meant(path, modules)
        faults.append(f"{path!r}{hint}")
    if faults:
        raise NothingMatchedError(
            f"nothing to reset at {', '.join(faults)}", remedy="Give dotted paths as in model.named_modules()"
        )


def _refuse_tied(model: Any, layers: Iterable[str], chosen: Iterable[int]) -> None:
    """Resetting one name of a tied parameter would silently reset the other."""
    reset = set(chosen)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in reset and not _named(plain(name), layers):
            raise CheckpointIncompatibleError(
                f"resetting {', '.join(layers)} would also reset {name!r}, which is tied to it",
                remedy="Name both, or untie them",
            )
