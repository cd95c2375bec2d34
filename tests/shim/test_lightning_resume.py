"""Real Lightning trainings that go on from a bundle: the same losses and weights as one that never stopped."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from shim.pod import Pod, lay_out_shim

from preheat.bundle.store import Store
from preheat.errors import CheckpointIncompatibleError, NothingMatchedError, NoWeightsError
from preheat.prepare import prepare
from preheat.saving.lightning import Saving
from preheat.shim.apply import report_on
from preheat.shim.lightning import applying_callback
from preheat.spec import parse

TRAINING = """
import torch

class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh())
        self.head = torch.nn.Linear(8, 1)
        self.losses = []

    def training_step(self, batch, _):
        loss = self.head(self.encoder(batch[0])).sub(batch[0].sum(1, keepdim=True)).square().mean()
        self.losses.append(loss.item())
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, _):
        self.head(self.encoder(batch[0]))

    def configure_optimizers(self):
        groups = [{"params": self.encoder.parameters(), "lr": 0.01}, {"params": self.head.parameters()}]
        optimizer = torch.optim.AdamW(groups, lr=0.03)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6], 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

class Watch(L.Callback):
    epochs = 0
    def on_train_epoch_end(self, trainer, module):
        self.epochs += 1
    def state_dict(self):
        return {"epochs": self.epochs}
    def load_state_dict(self, state):
        self.epochs = state["epochs"]

rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(3))
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows), batch_size=2)

def fit(model, ckpt_path=None, callbacks=(), **settings):
    trainer = L.Trainer(**{**dict(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Watch(), *callbacks]), **settings})
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return trainer

def facts(model, trainer):
    return {"losses": model.losses, "weights": model.state_dict(), "step": trainer.global_step,
        "epoch": trainer.current_epoch, "optimizer": trainer.optimizers[0].state_dict(),
        "scheduler": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        "epochs": [c.epochs for c in trainer.callbacks if isinstance(c, Watch)]}
"""
SCRIPT = (
    """
import {package} as L
"""
    + TRAINING.replace("{", "{{").replace("}", "}}")
    + """
import pickle
def refuse(*_, **__):
    raise AssertionError("a pickle is read")
torch.load, pickle.load, pickle.loads = refuse, refuse, refuse
torch.manual_seed(11)
model = Model()
torch.save(facts(model, fit(model)), "resumed.pt")
"""
)


def training_with(package: str = "lightning.pytorch") -> Any:
    """What the script above defines."""
    defined = {"L": importlib.import_module(package), "__name__": "training"}
    exec(TRAINING, defined)
    return SimpleNamespace(**defined)


@pytest.fixture(scope="module")
def training() -> Any:
    return training_with()


@pytest.fixture(scope="module")
def finished(training: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A training that never stopped, and checkpoints from its middle."""
    folder = tmp_path_factory.mktemp("finished")

    def run(**settings: Any) -> tuple[Any, Any]:
        torch.manual_seed(0)
        model = training.Model()
        return model, training.fit(model, **settings)

    save = training.L.callbacks.ModelCheckpoint(folder, "{step}", every_n_train_steps=6)
    whole = training.facts(*run(callbacks=[save], enable_checkpointing=True))
    trainer = run(max_epochs=1)[1]
    trainer.save_checkpoint(folder / "epoch.ckpt")
    trainer.save_checkpoint(folder / "weights.ckpt", weights_only=True)
    return SimpleNamespace(whole=whole, folder=folder)


Given = Callable[..., Path]


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    def bundle(checkpoint: Path, strategy: str = "warmStart", **environment: str) -> Path:
        stages = [{"local": {"path": str(checkpoint)}}, {"verify": {"finite": True}}, {strategy: {}}]
        folder = prepare(parse({"stages": stages}), Store(tmp_path / "volume"), "test").folder
        monkeypatch.setenv("PREHEAT_BUNDLE", str(folder))
        return folder

    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    return bundle


def notes(tmp_path: Path) -> str:
    return "; ".join(json.loads((tmp_path / "report.json").read_text())["notes"])


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_a_script_that_never_mentions_preheat_goes_on_as_if_it_had_never_stopped(
    finished: SimpleNamespace, given: Given, tmp_path: Path
) -> None:
    pod = Pod(lay_out_shim(tmp_path / "shim"), tmp_path, given(finished.folder / "epoch.ckpt"))
    done = pod.succeed(SCRIPT.format(package="pytorch_lightning"))
    resumed = torch.load(tmp_path / "resumed.pt", weights_only=False)
    assert resumed.pop("losses") == finished.whole["losses"][4:]
    assert same(resumed, {key: value for key, value in finished.whole.items() if key != "losses"})
    assert "Preheat: loaded 9 of 9 tensors" in done.stderr
    assert "Lightning restored optimizers, schedulers, loops and callbacks at step 4" in notes(tmp_path)


def test_in_the_middle_of_an_epoch_it_is_what_lightnings_own_restore_does(
    training: Any, finished: SimpleNamespace, given: Given
) -> None:
    given(finished.folder / "step=6.ckpt")
    ours, theirs = training.Model(), training.Model()
    ours_facts = training.facts(ours, training.fit(ours, callbacks=[applying_callback()]))
    theirs_facts = training.facts(theirs, training.fit(theirs, finished.folder / "step=6.ckpt"))
    assert ours_facts["step"] > 6  # how far an epoch goes on is Lightning's affair, and changed between versions
    assert same(ours_facts, theirs_facts)


def test_a_checkpoint_of_the_run_itself_wins(
    training: Any, finished: SimpleNamespace, given: Given, tmp_path: Path
) -> None:
    given(finished.folder / "epoch.ckpt")
    model, without = training.Model(), training.Model()
    training.fit(model, finished.folder / "step=6.ckpt", callbacks=[applying_callback()])
    training.fit(without, finished.folder / "step=6.ckpt")
    assert model.losses == without.losses
    assert "Lightning then restored" in notes(tmp_path)


def test_a_model_goes_on_after_it_was_validated_and_only_once(
    training: Any, finished: SimpleNamespace, given: Given
) -> None:
    given(finished.folder / "epoch.ckpt")
    model = training.Model()
    trainer = training.L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[applying_callback()]
    )
    trainer.validate(model, training.data, verbose=False)
    training.fit(model, callbacks=[applying_callback()])
    assert model.losses == finished.whole["losses"][4:]
    assert training.fit(model, callbacks=[applying_callback()]).global_step == 8  # a fresh run of the trained model


def test_another_layout_of_optimizers_is_refused_before_the_first_step(
    training: Any, finished: SimpleNamespace, given: Given
) -> None:
    class Single(training.Model):  # type: ignore[misc,name-defined]
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters())
            return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, [3])]

    class Unscheduled(training.Model):  # type: ignore[misc,name-defined]
        def configure_optimizers(self) -> Any:
            return super().configure_optimizers()["optimizer"]

    given(finished.folder / "epoch.ckpt")
    with pytest.raises(CheckpointIncompatibleError, match=r"2 parameter groups \(of 4, 2 parameters\), AdamW has 1"):
        training.fit(model := Single(), callbacks=[applying_callback()])
    assert model.losses == []
    with pytest.raises(CheckpointIncompatibleError, match=r"1 schedulers \(lr_schedulers.0\), and 0 were given"):
        training.fit(Unscheduled(), callbacks=[applying_callback()])


def test_strategies_that_make_parameters_over_are_refused_before_anything_is_done(
    training: Any, finished: SimpleNamespace, given: Given, tmp_path: Path
) -> None:
    """Lightning itself takes FSDPStrategy on GPUs alone."""
    strategy, reason = training.L.strategies.FSDPStrategy(), "FSDPStrategy makes parameters and optimizers over in its"
    given(finished.folder / "epoch.ckpt")
    model, trainer = training.Model(), training.L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer._accelerator_connector.strategy = strategy
    with pytest.raises(CheckpointIncompatibleError, match=f"{reason} own way, so saving without a pickle is not"):
        Saving(tmp_path).setup(trainer, model, "fit")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    applying_callback().setup(trainer, model, "fit")
    with pytest.raises(CheckpointIncompatibleError, match=f"{reason} own way, so a warm start is not supported"):
        model.configure_model()
    assert same(before, model.state_dict())


def test_a_lightning_that_does_not_take_the_state_is_refused(
    training: Any, finished: SimpleNamespace, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(finished.folder / "epoch.ckpt")
    connector = importlib.import_module("lightning.pytorch.trainer.connectors.checkpoint_connector")
    real = connector._CheckpointConnector.resume_start

    def forgetful(self: Any, *args: Any, **kwargs: Any) -> None:
        self._loaded_checkpoint = {}
        real(self, *args, **kwargs)

    monkeypatch.setattr(connector._CheckpointConnector, "resume_start", forgetful)
    with pytest.raises(NoWeightsError, match="did not restore the training state: it is at step 0, the checkpoint"):
        training.fit(training.Model(), callbacks=[applying_callback()])


def test_a_callbacks_object_is_left_out_and_told(
    training: Any, finished: SimpleNamespace, given: Given, tmp_path: Path
) -> None:
    checkpoint = torch.load(finished.folder / "epoch.ckpt", weights_only=False)
    checkpoint["callbacks"]["Other"] = {"path": tmp_path}
    torch.save(checkpoint, tmp_path / "object.ckpt")
    given(tmp_path / "object.ckpt")
    model = training.Model()
    training.fit(model, callbacks=[applying_callback()])
    assert model.losses == finished.whole["losses"][4:]
    assert "not made of the state: callbacks.Other.path (pathlib.PosixPath)" in notes(tmp_path)
    report = report_on(model)
    assert report is not None
    assert report.state == {"epoch": 1, "global_step": 4}  # Lightning has the rest; it is not kept twice


def test_a_checkpoint_without_optimizers_makes_no_bundle(
    finished: SimpleNamespace, given: Given, tmp_path: Path
) -> None:
    with pytest.raises(
        NothingMatchedError, match=r"weights\.ckpt holds no optimizer's state, so training cannot go on"
    ):
        given(finished.folder / "weights.ckpt")
    assert not list((tmp_path / "volume").glob("bundles/*"))


def test_two_processes_of_a_distributed_run_go_on_alike(
    finished: SimpleNamespace, given: Given, tmp_path: Path
) -> None:
    pod = Pod(lay_out_shim(tmp_path / "shim"), tmp_path, given(finished.folder / "epoch.ckpt"))
    pod.succeed(
        SCRIPT.format(package="lightning.pytorch")
        .replace("fit(model))", 'fit(model, strategy="ddp", devices=2))')
        .replace('"resumed.pt"', 'f"resumed{model.global_rank}.pt"')
    )
    first, second = (torch.load(tmp_path / f"resumed{rank}.pt", weights_only=False) for rank in (0, 1))
    assert same(first["weights"]["head.weight"], second["weights"]["head.weight"])
    assert same(first["optimizer"], second["optimizer"])
    assert (first["step"], first["epochs"], int(first["optimizer"]["state"][0]["step"])) == (6, [2], 6)
