"""Models that DeepSpeed has taken are refused, untouched and with what to do; DeepSpeed itself is not needed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from shim.sharded import Net, optimizer_of, scheduler_of, train

import preheat
from preheat.errors import CheckpointIncompatibleError


def partitioned(model: torch.nn.Module) -> torch.nn.Module:
    """As `zero.Init` of DeepSpeed 0.19.8 leaves a model: parameters without values, which note what they had."""
    for parameter in model.parameters():
        given: Any = parameter
        given.ds_numel, given.ds_shape = parameter.numel(), parameter.shape
        given.data = torch.empty(0)
    return model


@pytest.fixture
def deepspeed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What makes an object of a class of DeepSpeed's."""
    monkeypatch.setitem(sys.modules, "deepspeed", ModuleType("deepspeed"))
    return lambda kind, *args: type(kind.__name__, (kind,), {"__module__": "deepspeed.runtime"})(*args)


def test_a_model_that_zero_has_partitioned_is_refused_with_what_to_do(tmp_path: Path) -> None:
    model = Net()
    optimizer = optimizer_of(model)
    scheduler = scheduler_of(optimizer)
    train(model, optimizer, scheduler, range(2))
    source = {"local": {"path": str(preheat.save(tmp_path, model, optimizer, scheduler, update=2))}}
    empty = partitioned(Net())
    with pytest.raises(CheckpointIncompatibleError, match=r"weight' is DeepSpeed's, whose optimizer has.* before"):
        preheat.apply(empty, pipeline=[source, {"weightsOnly": {}}])
    optimizer = optimizer_of(empty)
    with pytest.raises(CheckpointIncompatibleError, match=r"head.weight is DeepSpeed's, which makes optimizers over"):
        preheat.apply(empty, optimizer, scheduler_of(optimizer), [source, {"warmStart": {}}])
    assert not any(parameter.numel() for parameter in empty.parameters())


def test_an_engine_whose_optimizer_would_overwrite_what_is_loaded_is_refused(tmp_path: Path, deepspeed: Any) -> None:
    source = {"local": {"path": str(preheat.save(tmp_path, Net(), update=2))}}
    inner = Net()
    inner.head.weight._hp_mapping = None  # as ZeRO 1 and 2 leave it
    for model, name in ((deepspeed(Net), "Net"), (inner, "'head.weight'")):
        with pytest.raises(CheckpointIncompatibleError, match=f"{name} is DeepSpeed's, whose optimizer has copies"):
            preheat.apply(model, pipeline=[source, {"weightsOnly": {}}])


def test_what_deepspeed_has_partitioned_is_not_saved_in_part(tmp_path: Path, deepspeed: Any) -> None:
    with pytest.raises(CheckpointIncompatibleError, match=r"the model is DeepSpeed's.*whose folders Preheat reads"):
        preheat.save(tmp_path, partitioned(Net()), update=1)
    with pytest.raises(CheckpointIncompatibleError, match="the model is DeepSpeed's"):
        preheat.save(tmp_path, deepspeed(Net), update=1)
    model = Net()
    with pytest.raises(CheckpointIncompatibleError, match="the optimizer is DeepSpeed's, whose state is partitioned"):
        preheat.save(tmp_path, model, deepspeed(torch.optim.AdamW, model.parameters()), update=1)
    assert not list(tmp_path.iterdir())
