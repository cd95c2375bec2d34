"""Lightning's callback: trainings that go on from what it saved, to the bit, and what it saves when."""

from __future__ import annotations

import json
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L  # noqa: N812 - as everybody calls it
import pytest
import torch
from safetensors.torch import load_file
from saving.loops import pointed, same

import preheat
from preheat.bundle.data import open_bundle
from preheat.bundle.store import Store
from preheat.prepare import prepare
from preheat.saving.lightning import Saving
from preheat.shim.lightning import applying_callback
from preheat.spec import parse

ROWS = torch.randn(8, 4, generator=torch.Generator().manual_seed(3))


class Model(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"width": 8, "kind": torch.float16})
        self.encoder = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3))
        self.head = torch.nn.Linear(8, 1)
        self.losses: list[float] = []
        self.told = -1

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        loss = self.head(self.encoder(batch[0])).sub(batch[0].sum(1, keepdim=True)).square().mean()
        self.losses.append(loss.item())
        if self.trainer.global_step == self.told:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val/loss", 1.0 / (1 + self.current_epoch % 2))
        self.log("val/accuracy", 0.9 - 0.1 * self.current_epoch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW([{"params": self.head.parameters()}, {"params": self.encoder.parameters()}], 0.03)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6], 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def fit(model: Model, *callbacks: Any, epochs: int = 3, **settings: Any) -> L.Trainer:
    data = [
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(ROWS), batch_size=2, shuffle=shuffle)
        for shuffle in (True, False)
    ]
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(each, Saving) for each in callbacks), callbacks=list(callbacks), **settings,
    )  # fmt: skip
    trainer.fit(model, *data)
    return trainer


def run(*callbacks: Any, seed: int = 0, **settings: Any) -> tuple[Model, L.Trainer]:
    torch.manual_seed(seed)
    model = Model()
    return model, fit(model, *callbacks, **settings)


def facts(model: Model, trainer: L.Trainer) -> Any:
    objects = (
        model.state_dict(),
        trainer.optimizers[0].state_dict(),
        trainer.lr_scheduler_configs[0].scheduler.state_dict(),
    )
    return objects, trainer.global_step, trainer.current_epoch, torch.get_rng_state()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, list[float]]:
    """A training of three epochs that saved after each, and what became of it."""
    root = tmp_path_factory.mktemp("saved")
    metric = {"val/loss": "min", "val/accuracy": "max"}
    model, trainer = run(Saving(root, metric=metric, parts=["head"], ema=[0.9, 0.5], wait=False))
    return root / "checkpoints", facts(model, trainer), model.losses


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path], None]:
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    return lambda folder: monkeypatch.setenv("PREHEAT_BUNDLE", str(folder))


def test_a_training_goes_on_as_if_it_had_never_stopped(
    saved: Any, give: Callable[[Path], None], tmp_path: Path
) -> None:
    home, whole, losses = saved
    give(home / "model_cp=E1_U4")
    model, trainer = run(applying_callback(), Saving(tmp_path, ema=0.9, every_epochs=3), seed=7)
    assert model.losses == losses[4:]
    assert same(facts(model, trainer), whole)
    averages = [
        load_file(each / "model_ema=0.9_cp=E3_U12" / "model.safetensors") for each in (home, tmp_path / "checkpoints")
    ]
    assert same(*averages)
    assert not torch.equal(averages[0]["head.weight"], model.head.weight)


def test_a_loader_brings_all_of_it_to_a_bundle(saved: Any, give: Callable[[Path], None], tmp_path: Path) -> None:
    home, whole, _ = saved
    stages = [{"local": {"path": str(home / "model_cp=E2_U8")}}, {"verify": {"finite": True}}, {"warmStart": {}}]
    give(bundle := prepare(parse({"stages": stages}), Store(tmp_path / "volume"), "test").folder)
    model, trainer = run(applying_callback(), seed=7)
    assert same(facts(model, trainer), whole)
    assert '{"$opaque":"torch.dtype"}' in (bundle / "state.json").read_text()  # of the hyper-parameters, never made


def test_saving_changes_nothing_of_the_training(saved: Any) -> None:
    _, whole, losses = saved
    model, trainer = run()
    assert (model.losses, same(facts(model, trainer), whole)) == (losses, True)


def test_what_is_there_and_what_names_it(saved: Any) -> None:
    home, _, _ = saved
    folders = sorted(each.name for each in home.iterdir() if each.is_dir())
    kinds = (".head", "", "_ema=0.5", "_ema=0.9")
    assert folders == [f"model{kind}_cp=E{n}_U{4 * n}" for kind in kinds for n in (1, 2, 3)]
    named = {tag: pointed(home, tag).name for tag in ("latest", "last", "best.val.loss", "best.val.accuracy")}
    best = {"best.val.loss": folders[4], "best.val.accuracy": folders[3]}
    assert named == {"latest": folders[5], "last": folders[5], **best}
    manifest = open_bundle(home / folders[4]).manifest
    assert manifest is not None
    assert manifest.saved is not None
    assert manifest.saved.metrics["val/loss"] == 0.5


def test_a_part_is_loaded_on_its_own(saved: Any) -> None:
    home, _, _ = saved
    model = Model()
    part = {"local": {"path": str(home / "model.head_cp=E3_U12")}}
    report = preheat.apply(model, pipeline=[part, {"transferLearning": {}}])
    assert set(report.loaded) == {"head.weight", "head.bias"}


def test_sigterm_saves_before_lightning_obeys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    model.told = 5
    with pytest.raises(SystemExit):  # Lightning's SIGTERMException is one
        fit(model, Saving(tmp_path))
    assert pointed(tmp_path / "checkpoints", "latest").name == "model_cp=E1_U6"


def test_every_so_many_updates(tmp_path: Path) -> None:
    run(Saving(tmp_path, every_updates=5, template="step-{update:03d}", run_id="exp-7"), epochs=3)
    home = tmp_path / "exp-7" / "checkpoints"
    assert sorted(each.name for each in home.iterdir() if each.is_dir()) == ["step-005", "step-010", "step-012"]


def test_only_what_was_evaluated_can_be_the_best(tmp_path: Path) -> None:
    saving = Saving(tmp_path, metric="val/loss", tolerances=[0])
    run(saving, epochs=4, check_val_every_n_epoch=2, num_sanity_val_steps=0)
    best = json.loads((tmp_path / "checkpoints" / "model_cp=best.val.loss.json").read_text())
    assert (best["checkpoint"], best["seen"], best["without"]) == ("model_cp=E2_U8", "E4_U16", 1)


def test_it_can_be_sent_to_a_process(tmp_path: Path) -> None:
    callback = pickle.loads(pickle.dumps(Saving(tmp_path, every_updates=5)))
    assert isinstance(callback, Saving)
    assert isinstance(callback, L.callbacks.Checkpoint)
