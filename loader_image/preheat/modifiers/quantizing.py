"""Replaces weights of linear layers by torchao's, in place: the parameter objects stay the same.

What torchao can do depends on its version, the device, the type and the shape. So it is asked before anything is
changed: one copy of each kind of layer is quantized and computed with, once forward and, where something is trained,
once back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from preheat.amounts import count_of
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, NothingMatchedError
from preheat.modifiers.selection import NEVER_CALLED, check_untied, check_whole, layers_at
from preheat.paths import holds, some
from preheat.strategies.filling.tensors import dtype_name
from preheat.strategies.loading import touching
from preheat.strategies.sizes import held_bytes
from preheat.strategies.wrapping import plain

if TYPE_CHECKING:
    from preheat.modifiers.quantize import QuantizationModifier

_GROUP = 128  # weights of a row that share a scale


def quantize(context: CheckpointContext, stage: QuantizationModifier) -> CheckpointContext:
    """Quantize what the stage names; raises before anything is changed, or says that the model was touched."""
    context.validate_for_stage("quantize", ["model"])
    model, config = context.model, _config(stage)
    layers = _layers(model, stage)
    weights = {f"{name}.weight": layer.get_parameter("weight") for name, layer in layers.items()}
    check_whole(model, weights)
    check_untied(model, weights)
    _refuse_trained(weights)
    _refuse_unequal(context, weights)
    _try(weights, config, stage.weights, trains=any(p.requires_grad for p in model.parameters()))
    said = {name: f"{dtype_name(weight.dtype)} -> {stage.weights}" for name, weight in weights.items()}
    size = sum(map(held_bytes, weights.values()))
    with touching():
        for weight in weights.values():
            _replace(weight, _quantized(weight, config))
        _leave_out(model, weights.values())
    after = sum(map(held_bytes, weights.values()))
    share = f"{after / size:.0%} of their bytes"
    entry = {
        "type": "quantize",
        "says": f"quantized {count_of(len(layers), 'layer')} to {stage.weights} ({some(stage.layers)}), {share}",
        "layers": list(stage.layers),
        "weights": stage.weights,
        "total_quantized_layers": len(layers),
        "bytes_before": size,
        "bytes_after": after,
        "tensors": said,
    }
    context.metadata.setdefault("modifiers_applied", []).append(entry)
    return context


def _config(stage: QuantizationModifier) -> Any:
    quantization = _torchao()
    # torchao would also set torch's matmul precision and options of its compiler for the whole process.
    if stage.weights == "int8":
        return quantization.Int8WeightOnlyConfig(set_inductor_config=False)
    if stage.weights == "float8":
        return quantization.Float8WeightOnlyConfig(set_inductor_config=False)
    return quantization.Int4WeightOnlyConfig(
        group_size=stage.group_size or _GROUP, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
    )


def _torchao() -> Any:
    try:
        return import_module("torchao.quantization")
    except ImportError as error:
        raise CheckpointConfigError(
            f"quantize needs the package torchao, which this process cannot import: {error}",
            remedy=f"Install torchao in the training image, in a version for torch {torch.__version__}",
        ) from error


def _layers(model: torch.nn.Module, stage: QuantizationModifier) -> dict[str, torch.nn.Module]:
    found = layers_at(model, stage.layers, _is_linear, "linear layer")
    for path in stage.keep:
        if not any(holds(path, name) for name in found):
            raise NothingMatchedError(
                f"keep: no layer that would be quantized is at {path!r}", remedy="Correct the path"
            )
    left = {n: layer for n, layer in found.items() if not any(holds(path, n) for path in stage.keep)}
    if not left:
        raise NothingMatchedError(f"keep leaves none of {len(found)} layers", remedy="Keep less")
    return left


def _is_linear(module: Any) -> bool:
    called = isinstance(module, torch.nn.Linear) and not isinstance(module, NEVER_CALLED)
    return called and "weight" in module._parameters


def _refuse_trained(weights: Mapping[str, torch.Tensor]) -> None:
    if trained := [name for name, weight in weights.items() if weight.requires_grad]:
        raise CheckpointIncompatibleError(
            f"{some(trained)} would be trained, and quantized weights are not",
            remedy="Freeze the layers first: put freezing before quantize",
        )


def _refuse_unequal(context: CheckpointContext, weights: Iterable[str]) -> None:
    """Initial values are each rank's own until DistributedDataParallel sends those of rank 0; it cannot send these."""
    initial = set(map(plain, context.get_metadata("initial_params", {})))
    if context.ranks and (unequal := [name for name in weights if name in initial]):
        raise CheckpointIncompatibleError(
            f"{some(unequal)} was not loaded, and its initial values differ from rank to rank",
            remedy="Keep what the checkpoint does not have as it is",
        )


def _try(weights: Mapping[str, torch.Tensor], config: Any, kind: str, *, trains: bool) -> None:
    """One weight of each shape, type and device; torchao has no common class for what it refuses."""
    distinct = {(w.shape, w.dtype, w.device): (name, w) for name, w in weights.items()}
    for name, weight in distinct.values():
        try:
            _compute(_quantized(weight, config), trains)
        except (ImportError, AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointIncompatibleError(
                f"{name} ({_described(weight)}) cannot be {kind}: {error}",
                remedy="Keep the layer as it is, or take other weights",
            ) from error


def _described(weight: torch.Tensor) -> str:
    return f"{dtype_name(weight.dtype)} {list(weight.shape)} on {weight.device}"


def _compute(weight: torch.Tensor, trains: bool) -> None:
    with torch.enable_grad():
        inputs = torch.zeros(2, weight.shape[1], dtype=weight.dtype, device=weight.device, requires_grad=trains)
        result = torch.nn.functional.linear(inputs, weight)
        if trains:
            result.sum().backward()  # type: ignore[no-untyped-call]


def _quantized(weight: torch.Tensor, config: Any) -> torch.Tensor:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight.detach(), requires_grad=False)
    _torchao().quantize_(layer, config)
    if not is_traceable_wrapper_subclass(layer.weight):
        raise ValueError("torchao leaves such a shape as it is")  # which it only logs
    return layer.weight


def _leave_out(model: torch.nn.Module, weights: Iterable[torch.Tensor]) -> None:
    """DistributedDataParallel cannot send them, and need not: they come from one checkpoint and do not train."""
    own = set(map(id, weights))
    names = {name for name, parameter in model.named_parameters() if id(parameter) in own}
    names.update(getattr(model, "_ddp_params_and_buffers_to_ignore", ()))
    torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)  # type: ignore[no-untyped-call]


def _replace(weight: torch.Tensor, quantized: torch.Tensor) -> None:
    quantized.__dict__.update(weight.__dict__)  # what others keep on it
    torch.utils.swap_tensors(weight, quantized)  # type: ignore[no-untyped-call]
