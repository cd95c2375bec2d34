"""Adapters on their own: what peft reads, and what `lora` reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from saving.loops import same

import preheat
from preheat.errors import CheckpointConfigError, NothingMatchedError
from preheat.runs.position import Position
from preheat.saving.plan import SavePlan
from preheat.saving.save import saver
from preheat.verbs.verification import verify_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")  # of peft


def base() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))


def adapted() -> Any:
    import peft

    return peft.get_peft_model(base(), peft.LoraConfig(r=2, lora_alpha=4, target_modules=["0", "2"]))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    model = adapted()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    return preheat.save(tmp_path_factory.mktemp("run"), model, update=3, adapters_only=True), model


def test_the_folder_is_one_of_peft(saved: tuple[Path, Any]) -> None:
    import peft

    folder, model = saved
    assert sorted(os.listdir(folder)) == ["adapter_config.json", "adapter_model.safetensors", "manifest.json"]
    assert len(load_file(folder / "adapter_model.safetensors")) == 4
    verify_checkpoint(folder)
    again = peft.PeftModel.from_pretrained(base(), str(folder))
    assert same(dict(again.state_dict()), dict(model.state_dict()))


def test_lora_puts_them_into_a_model_without(saved: tuple[Path, Any]) -> None:
    folder, model = saved
    other, rows = base(), torch.randn(3, 4)
    preheat.apply(other, pipeline=[{"local": {"path": str(folder)}}, {"lora": {}}])
    assert torch.equal(other(rows), model(rows))


def test_they_stand_beside_the_whole_and_callbacks_save_the_same(saved: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = saved
    whole = preheat.save(folder.parents[1], model, update=3)
    assert (folder.name, whole.name) == ("model.adapters_cp=U3", "model_cp=U3")
    plan = SavePlan(tmp_path, adapters_only=True)
    wishes = lambda: list(plan.wishes(model, Position(1), lambda states: {}, {}, []))  # noqa: E731
    [other] = saver.save(wishes, wait=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (other / name).read_bytes() == (folder / name).read_bytes()
    with pytest.raises(CheckpointConfigError, match="adapters_only leaves out parts and ema"):
        SavePlan(tmp_path, adapters_only=True, ema=0.9)


def test_a_model_without_adapters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NothingMatchedError, match="the model has no adapters"):
        preheat.save(tmp_path, base(), update=1, adapters_only=True)
