"""What peft does to a model, and how it is undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError
from preheat.modifiers.adapters.layers import exactly, for_peft, named, targeted
from preheat.modifiers.adapters.settings import TARGETS, WHOLE
from preheat.strategies.filling.shards import is_spread
from preheat.strategies.flattened import is_flattened

_NAME = "default"  # peft's, too, for an adapter that is given none
_CONFIG = "peft_config"
_FLAG = "_hf_peft_config_loaded"  # by it a model of Transformers knows that it has adapters, and saves those


class Snapshot:
    """The modules of a model, and which of its parameters train."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
        self._model = model
        self._names = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        self._modules = [(module, dict(module._modules)) for module in model.modules()]
        self._marked = {module for module in model.modules() if _CONFIG in vars(module)}

    def restore(self) -> None:
        """Give the model its modules back, without what peft has noted on them."""
        for module, children in self._modules:
            module._modules.clear()
            module._modules.update(children)
        self.let_train()

    def let_train(self) -> None:
        """What trained trains again, and the model knows of no adapters but those that it had."""
        for name, parameter in self._model.named_parameters():  # merged attention has parameters of its own
            parameter.requires_grad_(self._names.get(name, parameter.requires_grad))
        for module, _ in self._modules:
            if module not in self._marked:
                vars(module).pop(_CONFIG, None)
                vars(module).pop(_FLAG, None)


def adapters_of(model: torch.nn.Module) -> Any:
    """The LoraConfig of the adapters that a model has already; None if it has none."""
    found = [config for module in model.modules() for config in vars(module).get(_CONFIG, {}).values()]
    for config in found:
        if config.peft_type != "LORA":
            raise CheckpointIncompatibleError(
                f"the model has adapters of another kind, {config.peft_type}", remedy="Leave lora out"
            )
    return next(iter(found), None)


def inject(model: torch.nn.Module, given: Mapping[str, Any], targets: Sequence[str], whole: Sequence[str]) -> Any:
    """Put adapters into `model` and return peft's LoraModel around it, which can merge them.

    Whoever calls it undoes it when it raises: peft may then have changed a part of the model.
    """
    _refuse(model)
    inside = model._orig_mod if hasattr(model, "_orig_mod") else model  # what torch.compile wraps
    assert isinstance(inside, torch.nn.Module)  # noqa: S101 - for the type checker
    told = {**given, "inference_mode": False}
    if targets:
        told[TARGETS] = for_peft(inside, targeted(inside, targets), targets)
    elif isinstance(told.get(TARGETS), tuple):
        told[TARGETS] = for_peft(inside, exactly(inside, told[TARGETS]), ())
    if whole:
        told[WHOLE] = named(inside, whole)
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel
    from peft.tuners.tuners_utils import cast_adapter_dtype

    try:
        config = LoraConfig.from_peft_type(**{"peft_type": "LORA", **told})  # type: ignore[no-untyped-call]
        tuner = LoraModel(inside, config, _NAME)
        cast_adapter_dtype(inside, _NAME)
    except Exception as error:
        raise CheckpointConfigError(
            f"peft does not adapt this model: {error}", remedy="Give lora its targets"
        ) from error
    if hasattr(inside, _FLAG):
        setattr(inside, _FLAG, True)
    return tuner


def passed_by(model: torch.nn.Module) -> list[str]:
    """A warning for adapters that torch does not call when it takes its fast path, in eval mode without gradients."""
    layers = (module for module in model.modules() if isinstance(module, torch.nn.TransformerEncoderLayer))
    inside = any(".lora_" in name for layer in layers for name, _ in layer.named_parameters())
    if not inside or not torch.backends.mha.get_fastpath_enabled():
        return []
    return [
        "torch evaluates TransformerEncoderLayer without the adapters in it: call "
        "torch.backends.mha.set_fastpath_enabled(False)"
    ]


_watching: list[Any] = []  # handle of the hook, of which one is enough


def refuse_idle_optimizers() -> None:
    """Have the step of an optimizer fail that was built before the adapters, and so holds what is frozen alone.

    Asked until one optimizer has something to train.
    """
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    trains = False

    def refuse(optimizer: Any, *_: Any) -> None:
        nonlocal trains  # torch runs through its hooks here, so this one cannot be removed
        trains = trains or any(p.requires_grad for group in optimizer.param_groups for p in group["params"])
        if not trains:
            raise CheckpointConfigError(
                "this optimizer trains nothing: it was built before lora put its adapters in and froze the rest",
                remedy="Call preheat.apply(model) before the optimizer is built",
            )

    while _watching:
        _watching.pop().remove()
    _watching.append(register_optimizer_step_pre_hook(refuse))


def refuse_flattened(model: torch.nn.Module) -> None:
    """Raise for a model whose parameters exist only while they are gathered."""
    if is_flattened(model):
        raise _too_late()


def _refuse(model: torch.nn.Module) -> None:
    """Raise for a model whose parameters others hold on to, or that has no values to adapt."""
    parallel = (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    if isinstance(model, parallel) or any(map(is_spread, model.parameters())):
        raise _too_late()
    if any(parameter.is_meta for parameter in model.parameters()):
        raise CheckpointIncompatibleError(
            "the model is on the meta device, and nothing has loaded the weights that are adapted",
            remedy="Load the base in your program, or put a strategy before lora",
        )


def _too_late() -> CheckpointIncompatibleError:
    return CheckpointIncompatibleError(
        "adapters cannot be put into a model that is wrapped or sharded already",
        remedy="Call preheat.apply before DistributedDataParallel, fully_shard and the like",
    )
