"""Warm starts of a model whose layers are called otherwise by now: the optimizer's state follows the names."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import preheat
from preheat import CheckpointContext, CheckpointPipeline
from preheat.bundle.store import Store
from preheat.errors import CheckpointIncompatibleError
from preheat.prepare import prepare
from preheat.shim.lightning import applying_callback
from preheat.spec import parse

RENAMED = {"rename": [{"pattern": "^backbone", "replacement": "encoder"}]}


class Training:
    """A model whose first layer has the given name, and an optimizer that knows its parameters in the given order."""

    def __init__(self, first: str, seed: int, order: Callable[[Iterable[str]], list[str]] = list, head: str = "head"):
        torch.manual_seed(seed)
        self.model = torch.nn.Sequential()
        self.model.add_module(first, torch.nn.Linear(4, 8))
        self.model.add_module("act", torch.nn.Tanh())
        self.model.add_module(head, torch.nn.Linear(8, 1))
        named = dict(self.model.named_parameters())
        self.optimizer = torch.optim.AdamW([(name, named[name]) for name in order(named)], lr=0.01)

    def steps(self, first: int, last: int) -> list[float]:
        losses = []
        for number in range(first, last):
            rows = torch.randn(4, 4, generator=torch.Generator().manual_seed(number))
            loss = (self.model(rows) - rows.sum(1, keepdim=True)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses

    def saved(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "epoch": 1}

    def moments(self) -> dict[str, torch.Tensor]:
        state = self.optimizer.state_dict()
        [group] = state["param_groups"]
        named = zip(group["param_names"], group["params"], strict=True)
        return {name: state["state"][key]["exp_avg"] for name, key in named if key in state["state"]}


@pytest.fixture
def halfway() -> Training:
    training = Training("backbone", seed=0)
    training.steps(0, 10)
    return training


def in_one_process(saved: Any, training: Training, stages: list[Any], folder: Path) -> Mapping[str, Any]:
    torch.save(saved, folder / "run.pt")
    context = CheckpointContext(model=training.model, optimizer=training.optimizer)
    source = {"local": {"path": str(folder / "run.pt")}}
    return CheckpointPipeline([source, *stages]).execute_sync(context).metadata


def through_a_bundle(saved: Any, training: Training, stages: list[Any], folder: Path) -> Mapping[str, Any]:
    torch.save(saved, folder / "run.pt")
    spec = parse({"stages": [{"local": {"path": str(folder / "run.pt")}}, *stages]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREHEAT_REPORT", str(folder / "report.json"))
        patch.setenv("PREHEAT_BUNDLE", str(prepare(spec, Store(folder / "volume"), "test").folder))
        report = preheat.apply(training.model, training.optimizer)
    return {"skipped_params": report.skipped, "restored": report.notes}


def by_hand(saved: Any, training: Training, stages: list[Any], folder: Path) -> Mapping[str, Any]:
    context = CheckpointContext(model=training.model, optimizer=training.optimizer, checkpoint_data=saved)
    return CheckpointPipeline(stages).execute_sync(context).metadata


@pytest.mark.parametrize("load", [in_one_process, through_a_bundle])
@pytest.mark.parametrize(
    "stages",
    [[{"warmStart": RENAMED}], [{"convert": RENAMED}, {"warmStart": {}}]],
    ids=["by the strategy", "by a conversion"],
)
def test_a_training_of_other_names_goes_on_as_if_it_had_never_stopped(load, stages, halfway, tmp_path):
    resumed = Training("encoder", seed=1, order=sorted)  # so that positions would give another's moments
    done = load(halfway.saved(), resumed, stages, tmp_path)
    assert any("AdamW (4 parameters by name)" in said for said in done["restored"])
    assert resumed.steps(10, 20) == halfway.steps(10, 20)


def test_a_mapping_of_the_users_own_goes_on_under_other_names(halfway, tmp_path):
    resumed = Training("encoder", seed=1, order=sorted)
    by_hand(halfway.saved(), resumed, [{"warmStart": RENAMED}], tmp_path)
    assert resumed.steps(10, 20) == halfway.steps(10, 20)


def test_states_that_are_keyed_by_name_follow_too(halfway, tmp_path):
    saved = halfway.saved()
    [group] = saved["optimizer"]["param_groups"]
    names = dict(zip(group["params"], group.pop("param_names"), strict=True))
    group["params"] = list(names.values())
    saved["optimizer"]["state"] = {names[key]: entry for key, entry in saved["optimizer"]["state"].items()}
    for number, stages in enumerate(([{"warmStart": RENAMED}], [{"convert": RENAMED}, {"warmStart": {}}])):
        resumed = Training("encoder", seed=1, order=sorted)
        (tmp_path / str(number)).mkdir()
        through_a_bundle(saved, resumed, stages, tmp_path / str(number))
        assert torch.equal(resumed.moments()["encoder.weight"], halfway.moments()["backbone.weight"])


@pytest.mark.parametrize("load", [in_one_process, through_a_bundle])
@pytest.mark.parametrize("where", ["strategy", "conversion"])
def test_a_new_head_begins_anew_and_the_old_ones_state_is_left(load, where, halfway, tmp_path):
    leaving = {"exclude": ["^head"]}
    stages = [{"warmStart": {**leaving, "keep": ["^top"]}}]
    if where == "conversion":
        stages = [{"convert": leaving}, {"warmStart": {"keep": ["^top"]}}]
    resumed = Training("backbone", seed=1, head="top")
    initial = resumed.model.get_parameter("top.weight").clone()
    done = load(halfway.saved(), resumed, stages, tmp_path)
    assert any("AdamW (2 parameters by name)" in said for said in done["restored"])
    assert torch.equal(resumed.model.get_parameter("top.weight"), initial)
    assert list(resumed.moments()) == ["backbone.weight", "backbone.bias"]
    assert torch.equal(resumed.moments()["backbone.bias"], halfway.moments()["backbone.bias"])
    resumed.steps(10, 12)
    assert len(resumed.moments()) == 4


def test_a_kept_layer_gets_no_moments_of_the_values_that_it_does_not_have(halfway, tmp_path):
    for order in (list, sorted):
        resumed = Training("backbone", seed=1, order=order)
        in_one_process(halfway.saved(), resumed, [{"warmStart": {"keep": ["^head"]}}], tmp_path)
        assert set(resumed.moments()) == {"backbone.weight", "backbone.bias"}


def test_states_without_names_go_by_position_and_leave_out_what_is_kept(halfway, tmp_path):
    saved = halfway.saved()
    del saved["optimizer"]["param_groups"][0]["param_names"]
    resumed = Training("encoder", seed=1)
    in_one_process(saved, resumed, [{"warmStart": {**RENAMED, "keep": [r"^head\.bias"]}}], tmp_path)
    assert set(resumed.moments()) == {"encoder.weight", "encoder.bias", "head.weight"}
    assert torch.equal(resumed.moments()["encoder.weight"], halfway.moments()["backbone.weight"])


def test_what_was_not_said_is_still_refused(halfway, tmp_path):
    resumed = Training("encoder", seed=1, head="top")
    stages = [{"warmStart": {**RENAMED, "strict": False}}]
    with pytest.raises(CheckpointIncompatibleError, match=r"is one without top\.weight, .*with head\.weight"):
        in_one_process(halfway.saved(), resumed, stages, tmp_path)


def lightning_model(first: str) -> Any:
    """A training whose first layer has the given name, and whose optimizer knows the names in alphabetical order."""

    lightning = importlib.import_module("lightning.pytorch")

    class Model(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.add_module(first, torch.nn.Linear(4, 8))
            self.head = torch.nn.Linear(8, 1)
            self.losses: list[float] = []

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            loss = self.head(self.get_submodule(first)(batch[0])).sub(batch[0].sum(1, keepdim=True)).square().mean()
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(sorted(self.named_parameters()), lr=0.01)

    torch.manual_seed(5)
    return Model()


def fit(model: Any, epochs: int, *callbacks: Any) -> Any:
    rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(3))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows), batch_size=2)
    trainer = importlib.import_module("lightning.pytorch").Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(model, data)
    return trainer


def test_lightnings_own_restore_gets_the_new_names(tmp_path, monkeypatch):
    fit(lightning_model("zone"), 1).save_checkpoint(tmp_path / "half.ckpt")
    fit(whole := lightning_model("zone"), 2)
    stages = [{"warmStart": {"rename": [{"pattern": "zone.", "replacement": "encoder.", "match": "substring"}]}}]
    spec = parse({"stages": [{"local": {"path": str(tmp_path / "half.ckpt")}}, *stages]})
    monkeypatch.setenv("PREHEAT_BUNDLE", str(prepare(spec, Store(tmp_path / "volume"), "test").folder))
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    fit(resumed := lightning_model("encoder"), 2, applying_callback())
    assert resumed.losses == whole.losses[4:]
