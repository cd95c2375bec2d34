"""The Trainer's callback: trainings that go on from what it saved, to the bit, and what it saves when."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from saving.loops import pointed, same
from shim.trainings import TRAINER, defined_by, hooked

pytestmark = pytest.mark.filterwarnings("ignore")  # of Transformers and what it uses

SETTINGS: dict[str, Any] = {"lr_scheduler_type": "cosine", "warmup_steps": 3, "eval_strategy": "steps", "eval_steps": 4}


@pytest.fixture(scope="module")
def training() -> SimpleNamespace:
    return defined_by(TRAINER)


def trainer_of(training: SimpleNamespace, folder: Path, *callbacks: Any, seed: int = 99, **settings: Any) -> Any:
    arguments = training.arguments(folder / "out", **{**SETTINGS, **settings})
    torch.manual_seed(seed)
    rows = training.Rows()
    return training.Watching(
        training.build(), arguments, train_dataset=rows, eval_dataset=rows, callbacks=list(callbacks)
    )


def facts(training: SimpleNamespace, trainer: Any) -> Any:
    state = trainer.state
    objects = trainer.model.state_dict(), trainer.optimizer.state_dict(), trainer.lr_scheduler.state_dict()
    return training.losses(trainer), objects, state.global_step, state.epoch, torch.get_rng_state()


@pytest.fixture(scope="module")
def finished(training: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A training of 12 steps in 2 epochs that saved after every other one."""
    from preheat.saving.transformers import Saving

    root = tmp_path_factory.mktemp("saved")
    trainer = trainer_of(training, root, Saving(root, every_updates=2, metric="eval_loss", ema=0.9, wait=False))
    trainer.train()
    return SimpleNamespace(home=root / "checkpoints", facts=facts(training, trainer))


@pytest.mark.parametrize("name", ["model_cp=E1_U6", "model_cp=E1_U8"])  # the end of an epoch, the middle of the next
def test_a_training_goes_on_as_if_it_had_never_stopped(
    training: SimpleNamespace, finished: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from preheat.saving.transformers import Saving
    from preheat.shim import transformers as shim

    monkeypatch.setenv("PREHEAT_BUNDLE", str(finished.home / name))
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    with hooked(shim, training.Trainer, monkeypatch):
        trainer = trainer_of(training, tmp_path, Saving(tmp_path, every_updates=99, ema=0.9), seed=5)
        trainer.train()
    assert same(facts(training, trainer), finished.facts)
    homes = finished.home, tmp_path / "checkpoints"
    assert same(*(load_file(home / "model_ema=0.9_cp=E2_U12" / "model.safetensors") for home in homes))
    said = (tmp_path / "report.json").read_text()
    assert "with optimizer, scheduler, averages, random states of the checkpoint" in said


def test_saving_changes_nothing_of_the_training(
    training: SimpleNamespace, finished: SimpleNamespace, tmp_path: Path
) -> None:
    trainer = trainer_of(training, tmp_path)
    trainer.train()
    assert same(facts(training, trainer), finished.facts)


def test_what_is_there_and_what_names_it(training: SimpleNamespace, finished: SimpleNamespace) -> None:
    folders = sorted(each.name for each in finished.home.iterdir() if each.is_dir())
    assert folders == sorted(f"model{info}_cp=E{n // 6}_U{n}" for n in range(2, 13, 2) for info in ("", "_ema=0.9"))
    assert {pointed(finished.home, tag).name for tag in ("latest", "last")} == {"model_cp=E2_U12"}
    best = json.loads((finished.home / "model_cp=best.eval_loss.json").read_text())
    assert best["position"]["update"] in (4, 8, 12)  # where it was evaluated
    assert (best["seen"], best["without"]) == ("E2_U12", (12 - best["position"]["update"]) // 4)
    model = training.BertForSequenceClassification.from_pretrained(finished.home / "model_cp=E2_U12")
    assert same(dict(model.state_dict()), finished.facts[1][0])


def test_sigterm_ends_the_training_when_the_checkpoint_is_there(training: SimpleNamespace, tmp_path: Path) -> None:
    from preheat.saving.transformers import Saving

    class Told(training.TrainerCallback):  # type: ignore[misc,name-defined]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    def obey(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, obey)
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer_of(training, tmp_path, Saving(tmp_path), Told()).train()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert pointed(tmp_path / "checkpoints", "latest").name == "model_cp=E0_U5"
