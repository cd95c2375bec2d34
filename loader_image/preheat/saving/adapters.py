"""Adapters on their own, in the form in which peft saves and reads them."""

from __future__ import annotations

import json
from typing import Any

import torch

from preheat.errors import CheckpointConfigError, NothingMatchedError
from preheat.saving.weights import Weights, distinct

#: The part of a model that its adapters are: a checkpoint of them stands beside that of the whole.
PART = "adapters"


def weights_of(model: torch.nn.Module) -> Weights:
    """The weights of the model's one adapter, under the names of peft's files."""
    from peft import get_peft_model_state_dict

    name, _ = _adapter(model)
    return distinct(get_peft_model_state_dict(_holder(model), adapter_name=name))


def configuration_of(model: torch.nn.Module) -> bytes:
    """What peft needs to make the adapter again."""
    _, config = _adapter(model)
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return json.dumps({**plain, "inference_mode": True}, indent=2, sort_keys=True).encode()


def _adapter(model: torch.nn.Module) -> tuple[str, Any]:
    found = getattr(_holder(model), "peft_config", None)
    if not found:
        raise NothingMatchedError("the model has no adapters", remedy="Leave adapters_only out")
    active = getattr(model, "active_adapter", None)
    name = active if isinstance(active, str) and active in found else next(iter(found))
    return name, found[name]


def _holder(model: torch.nn.Module) -> torch.nn.Module:
    """The part of the model on which peft notes its adapters: the model itself, or what it is inside of another."""
    return next((each for each in model.modules() if getattr(each, "peft_config", None)), model)


def check_whole(*, adapters_only: bool, sharded: bool) -> None:
    """Refuse shards of adapters: peft reads one file."""
    if adapters_only and sharded:
        raise CheckpointConfigError("adapters are saved as peft reads them, in one file", remedy="Leave out sharded")
