"""What a report says once a model has adapters: their names, those that its base has now, and what trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from preheat.amounts import count_of
from preheat.context import CheckpointContext
from preheat.modifiers.adapters.names import spelled
from preheat.paths import some
from preheat.strategies.claims import CLAIMED
from preheat.strategies.matching import Match

_MISSING = "not in the checkpoint"


@dataclass(frozen=True)
class Loaded:
    """What came from the checkpoint."""

    names: Mapping[str, str]  # in the checkpoint -> in the model
    found: Match
    size: int  # bytes
    seconds: float
    alone: bool  # no stage had loaded anything before


@dataclass(frozen=True)
class Adapted:
    """What was done to a model, whose tensors are given as they were before and as they were with adapters."""

    config: Any  # peft's LoraConfig
    before: Mapping[str, torch.Tensor]
    after: Mapping[str, torch.Tensor]
    trained: Mapping[torch.nn.Parameter, bool]  # before
    loaded: Loaded | None
    merged: bool

    @property
    def added(self) -> list[str]:
        """The names of the tensors that are new."""
        own = {id(tensor) for tensor in self.before.values()}
        return [name for name, tensor in self.after.items() if id(tensor) not in own]

    @property
    def names(self) -> dict[str, str]:
        """What the tensors that were there are called beside the adapters."""
        now = {id(tensor): name for name, tensor in self.after.items()}
        return {name: now.get(id(tensor), name) for name, tensor in self.before.items()}


def tell(context: CheckpointContext, done: Adapted) -> None:
    """Bring the context's metadata up to date, and leave the modifier's entry."""
    said = context.metadata
    if done.loaded and done.loaded.alone:
        context.model.weights_initialized = True
        said.update(loading_strategy="lora", transferred_params=[], initial_params=dict.fromkeys(done.before, _MISSING))
    if not done.merged:
        _rename(said, done.names)
        said["added_params"] = [*said.get("added_params", ()), *done.added]
    if done.loaded:
        _add_loaded(said, done, done.loaded)
    said["initial_params"] = {
        name: _MISSING if why == CLAIMED else why for name, why in said.get("initial_params", {}).items()
    }
    said.setdefault("modifiers_applied", []).append(_entry(context.model, done))


def _rename(said: dict[str, Any], names: Mapping[str, str]) -> None:
    for key in ("initial_params", "dtype_casts", "resized_params"):
        said[key] = {names.get(name, name): value for name, value in said.get(key, {}).items()}
    said["transferred_params"] = [names.get(name, name) for name in said.get("transferred_params", ())]


def _add_loaded(said: dict[str, Any], done: Adapted, loaded: Loaded) -> None:
    """Adapters that were merged are in the weights that they adapt."""
    weights = [name for name, now in done.names.items() if now != name and name.endswith("weight")]
    filled = dict.fromkeys(weights if done.merged else loaded.found.loaded)
    if said.get("transferred_params") or loaded.alone:  # else a stage that names no tensors has loaded the base
        said["transferred_params"] = list(dict.fromkeys([*said["transferred_params"], *filled]))
    said["initial_params"] = {n: why for n, why in said.get("initial_params", {}).items() if n not in filled}
    said["skipped_params"] = {n: why for n, why in said.get("skipped_params", {}).items() if n not in loaded.names}
    if not done.merged:
        said["dtype_casts"] = {**said.get("dtype_casts", {}), **loaded.found.casts}
    said["loaded_bytes"] = said.get("loaded_bytes", 0) + loaded.size
    said["load_seconds"] = said.get("load_seconds", 0.0) + loaded.seconds


def _entry(model: torch.nn.Module, done: Adapted) -> dict[str, Any]:
    """Counts are of tensors and of their elements."""
    layers = list(spelled(done.after).adapted)
    parameters = list(model.parameters())
    frozen = [each for each, trained in done.trained.items() if trained and not each.requires_grad]
    loaded = len(done.loaded.names) if done.loaded else 0
    trains, total = sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
    added = [] if done.merged else done.added
    return {
        "type": "lora",
        "targets": layers,
        "rank": done.config.r,
        "alpha": done.config.lora_alpha,
        "dropout": done.config.lora_dropout,
        "bias": done.config.bias,
        "merged": done.merged,
        "added_params": len(added),
        "added_elements": sum(done.after[name].numel() for name in added),
        "loaded_params": loaded,
        "total_frozen_params": len(frozen),
        "total_frozen_elements": sum(parameter.numel() for parameter in frozen),
        "trainable_elements": trains,
        "total_elements": total,
        "says": f"{_did(done)} {count_of(len(layers), 'layer')} ({some(layers)}); {trains} of {total} elements train",
    }


def _did(done: Adapted) -> str:
    adapters = f"adapters of rank {done.config.r}, alpha {done.config.lora_alpha:g}"
    if done.loaded:
        loaded = f"{adapters}, {count_of(len(done.loaded.names), 'tensor')} from the checkpoint,"
        return f"{loaded} merged into" if done.merged else f"{loaded} in"
    return f"new {adapters}, in" if done.added else f"{adapters}, as the program made them, in"
