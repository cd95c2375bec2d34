"""Gives memory to tensors on the meta device: directly where they belong, and only when each of them gets a value.

A tensor object stays the one that it is (`torch.utils.swap_tensors`), so ties, optimizers and all else that refers to
it stay valid. What the checkpoint does not have is initialised by its module's own method; memory that nobody wrote
to is never handed out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from preheat.errors import CheckpointIncompatibleError, CheckpointLoadError
from preheat.module_tree import tensors_within
from preheat.paths import some
from preheat.strategies.filling.shards import is_spread, local

# torch's own attention and transformer modules keep theirs behind an underscore.
_METHODS = ("reset_parameters", "_reset_parameters")


@dataclass(frozen=True)
class Needed:
    """Tensors without memory, each with the device that it gets, and what initialises those without values."""

    devices: tuple[tuple[torch.Tensor, torch.device], ...]
    empty: dict[str, torch.Tensor]  # those that the checkpoint does not fill
    initialisers: dict[str, Callable[[], object]]  # by the names of modules

    def notes(self) -> Iterator[str]:
        """What was done, for the report."""
        if self.devices:
            on = ", ".join(sorted({str(device) for _, device in self.devices}))
            yield f"gave {len(self.devices)} tensors memory on {on}"
        if self.initialisers:
            yield f"initialised {', '.join(self.initialisers)} by their own method"


def needed(model: torch.nn.Module, filled: Iterable[torch.Tensor], device: Any = None) -> Needed:
    """What has to happen before `filled` are; raises CheckpointIncompatibleError when a tensor would have no value."""
    if not any(tensor.is_meta for tensor in tensors_within(model)):
        return Needed((), {}, {})
    own = list(_own(model))
    kept = {id(tensor) for tensor in filled}
    without = {id(tensor): tensor for _, _, _, tensor in own if tensor.is_meta}
    empty = {_joined(path, name): tensor for path, _, name, tensor in own if tensor.is_meta and id(tensor) not in kept}
    owners = {path: module for path, module, _, tensor in own if tensor.is_meta and id(tensor) not in kept}
    methods = {path: initialiser(module) for path, module in owners.items()}
    if nameless := [name for name in empty if methods[name.rpartition(".")[0]] is None]:
        raise CheckpointIncompatibleError(
            f"{some(nameless, 5)} would have no value: on the meta device, not filled from the checkpoint, and "
            f"{_classes(owners, methods)} has no reset_parameters()",
            remedy="Build that part of the model on a real device, or give the class that method",
        )
    chosen = _Devices(model, device)
    devices = tuple((tensor, chosen.of(tensor)) for tensor in without.values())
    return Needed(devices, empty, {path or type(model).__name__: m for path, m in methods.items() if m})


def provide(need: Needed) -> None:
    """Give memory, and initialise what is to keep its initial value; raises CheckpointLoadError when nothing did."""
    with torch.no_grad():
        for tensor, device in need.devices:
            _give(tensor, device)
        for tensor in need.empty.values():
            _mark(local(tensor))
        for initialise in need.initialisers.values():
            initialise()
        if left := [name for name, tensor in need.empty.items() if _marked(local(tensor))]:
            raise CheckpointLoadError(f"reset_parameters() of their modules gave no value to {some(left, 5)}")


def initialiser(module: torch.nn.Module) -> Callable[[], object] | None:
    """How `module` initialises what is its own; None if it cannot."""
    return next((found for each in _METHODS if callable(found := getattr(module, each, None))), None)


def _own(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module, str, torch.Tensor]]:
    """Every tensor of every module, tied ones under all their names: path, module, name in it, tensor."""
    for path, module in model.named_modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                yield path, module, name, tensor


class _Devices:
    """Where a tensor belongs: as asked for, with its mesh, with the rest of the model, or where torch puts new ones."""

    def __init__(self, model: torch.nn.Module, wanted: Any) -> None:
        self._wanted = None if wanted is None else torch.device(wanted)
        self._others = {tensor.device for tensor in tensors_within(model) if not tensor.is_meta}

    def of(self, tensor: Any) -> torch.device:
        if self._wanted:
            return self._wanted
        if is_spread(tensor):
            return _current(tensor.device_mesh.device_type)
        if len(self._others) > 1:
            raise CheckpointIncompatibleError(
                f"the model is on {', '.join(sorted(map(str, self._others)))} and on the meta device",
                remedy="Say where the rest belongs: preheat.apply(model, device=...)",
            )
        default = torch.get_default_device()
        return next(iter(self._others), torch.device("cpu") if default.type == "meta" else default)


def _current(kind: str) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    return torch.device(kind, torch.get_device_module(kind).current_device())


def _give(tensor: torch.Tensor, device: torch.device) -> None:
    fresh = torch.empty_like(tensor, device=device)
    if isinstance(tensor, torch.nn.Parameter):
        fresh = torch.nn.Parameter(fresh, requires_grad=tensor.requires_grad)
    fresh.__dict__.update(tensor.__dict__)  # what others keep on it
    try:
        torch.utils.swap_tensors(tensor, fresh)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise CheckpointLoadError(
            f"a tensor on the meta device is held by something else, so it cannot get memory: {error}",
            remedy="Call model.to_empty(device=...) first",
        ) from error


def _mark(tensor: torch.Tensor) -> None:
    if tensor.is_floating_point() or tensor.is_complex():
        tensor.fill_(torch.nan)
    elif tensor.dtype != torch.bool:
        tensor.fill_(torch.iinfo(tensor.dtype).max)


def _marked(tensor: torch.Tensor) -> bool:
    if tensor.is_floating_point() or tensor.is_complex():
        return bool(tensor.isnan().any())
    return tensor.dtype != torch.bool and bool((tensor == torch.iinfo(tensor.dtype).max).any())


def _classes(owners: dict[str, torch.nn.Module], methods: dict[str, Any]) -> str:
    return " or ".join(sorted({type(owners[path]).__name__ for path, method in methods.items() if method is None}))


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
