"""Prunes weights with `torch.nn.utils.prune`, which keeps the parameter objects, and counts the zeros that are there.

Which weights go depends on their values or on the stage's seed, never on torch's random state, the device or the rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import prune as torch_prune

from preheat.amounts import count_of
from preheat.context import CheckpointContext
from preheat.errors import CheckpointIncompatibleError, NothingMatchedError
from preheat.modifiers.selection import NEVER_CALLED, check_untied, check_whole, layers_at
from preheat.paths import some
from preheat.strategies.loading import touching

if TYPE_CHECKING:
    from preheat.modifiers.prune import PruningModifier

_PRUNED = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)


def prune(context: CheckpointContext, stage: PruningModifier) -> CheckpointContext:
    """Prune the layers that the stage names; raises before anything is changed, or says that the model was touched."""
    context.validate_for_stage("prune", ["model"])
    layers = _layers(context.model, stage)
    _refuse_amounts(layers, stage)
    generator = torch.Generator().manual_seed(stage.seed)
    with touching():
        for layer in layers.values():
            _prune(layer, stage, generator)
    zeros = {name: int((layer.weight == 0).sum()) for name, layer in layers.items()}
    elements = {name: layer.weight.numel() for name, layer in layers.items()}
    sparsity = sum(zeros.values()) / sum(elements.values())
    kept = "for good" if stage.permanent else "by masks"
    entry = {
        "type": "prune",
        "says": f"pruned {count_of(len(layers), 'layer')} ({some(stage.layers)}), "
        f"{sparsity:.1%} of their weights zero {kept}",
        "layers": list(stage.layers),
        "method": stage.method,
        "amount": stage.amount,
        "permanent": stage.permanent,
        "total_pruned_params": len(layers),
        "total_zero_elements": sum(zeros.values()),
        "total_elements": sum(elements.values()),
        "sparsity": sparsity,
        "tensors": {_own(name, stage): f"{zeros[name] / elements[name]:.1%} zero" for name in layers},
    }
    masks = () if stage.permanent else tuple(f"{name}.weight_mask" for name in layers)
    context.update_metadata(added_params=(*context.get_metadata("added_params", ()), *masks))
    context.metadata.setdefault("modifiers_applied", []).append(entry)
    return context


def _layers(model: torch.nn.Module, stage: PruningModifier) -> dict[str, Any]:
    def suits(module: Any) -> bool:
        unused = isinstance(module, NEVER_CALLED) and not stage.permanent  # a mask is applied when a layer is called
        return isinstance(module, _PRUNED) and not unused and "weight" in module._parameters

    found = layers_at(model, stage.layers, suits, "linear or convolution layer with a plain weight")
    weights = {f"{name}.weight": layer.get_parameter("weight") for name, layer in found.items()}
    check_whole(model, weights)
    check_untied(model, weights)
    return dict(found)


def _refuse_amounts(layers: Mapping[str, Any], stage: PruningModifier) -> None:
    """torch rounds to whole weights or channels."""
    sizes = {
        n: len(layer.weight) if stage.method == "structured" else layer.weight.numel() for n, layer in layers.items()
    }
    counts = {name: round(stage.amount * size) for name, size in sizes.items()}
    if not any(counts.values()):
        raise NothingMatchedError(
            f"an amount of {stage.amount:g} rounds to nothing in {some(layers)}", remedy="Give a larger amount"
        )
    if whole := [name for name, count in counts.items() if count == sizes[name]]:
        raise CheckpointIncompatibleError(
            f"an amount of {stage.amount:g} leaves nothing of {some(whole)}", remedy="Give a smaller amount"
        )


def _prune(layer: Any, stage: PruningModifier, generator: torch.Generator) -> None:
    if stage.method == "structured":
        torch_prune.ln_structured(layer, "weight", stage.amount, n=2, dim=0)  # type: ignore[no-untyped-call]
    else:
        scores = layer.weight.detach().contiguous()
        if stage.method == "random":
            scores = torch.rand(scores.shape, generator=generator).to(scores.device)
        torch_prune.l1_unstructured(layer, "weight", stage.amount, scores)  # type: ignore[no-untyped-call]
    if stage.permanent:
        torch_prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
    else:
        layer.weight = layer.weight.detach()  # computed anew with every call; without history it can be copied


def _own(name: str, stage: PruningModifier) -> str:
    """What the pruned weight is called from now on."""
    return f"{name}.weight" if stage.permanent else f"{name}.weight_orig"
