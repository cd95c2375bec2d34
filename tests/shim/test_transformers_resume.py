"""Trainings with Transformers' Trainer that go on from a bundle: the same losses as one that never stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from shim.pod import Pod, lay_out_shim
from shim.trainings import TRAINER, defined_by, hooked

from preheat.bundle.store import Store
from preheat.errors import CheckpointIncompatibleError, NoWeightsError, UnsupportedVersionError
from preheat.prepare import prepare
from preheat.shim import transformers as shim
from preheat.spec import parse

pytestmark = pytest.mark.filterwarnings("ignore")  # of Transformers and what it uses

SETTINGS: dict[str, Any] = {"lr_scheduler_type": "cosine", "warmup_steps": 3}
PICKLES = """
import pickle
def refuse(*_, **__):
    raise AssertionError("a pickle is read")
torch.load, pickle.load, pickle.loads = refuse, refuse, refuse
"""

Give = Callable[..., None]


@pytest.fixture(scope="module")
def training() -> SimpleNamespace:
    return defined_by(TRAINER)


@pytest.fixture(scope="module")
def finished(training: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A training that never stopped, 12 steps in 2 epochs, and checkpoints from its way."""
    folder = tmp_path_factory.mktemp("finished")
    trainer = training.Watching(
        training.build(),
        training.arguments(folder, save_strategy="steps", save_steps=2, **SETTINGS),
        train_dataset=training.Rows(),
    )
    trainer.train()
    return SimpleNamespace(folder=folder, facts=facts(training, trainer))


def facts(training: SimpleNamespace, trainer: Any) -> dict[str, Any]:
    """What two trainings must have in common."""
    state = trainer.state
    return {
        "losses": training.losses(trainer),
        "weights": {name: value.clone() for name, value in trainer.model.state_dict().items()},
        "optimizer": trainer.optimizer.state_dict()["state"],
        "scheduler": trainer.lr_scheduler.state_dict()["last_epoch"],
        "step": (state.global_step, state.epoch),
        "random": torch.get_rng_state(),
    }


@pytest.fixture
def give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Give:
    def bundle(checkpoint: Path, strategy: str = "warmStart") -> None:
        stages = [{"local": {"path": str(checkpoint)}}, {strategy: {}}]
        folder = prepare(parse({"stages": stages}), Store(tmp_path / "volume"), "test").folder
        monkeypatch.setenv("PREHEAT_BUNDLE", str(folder))

    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    return bundle


@pytest.fixture
def auto(training: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    with hooked(shim, training.Trainer, monkeypatch):
        yield training


def trainer_of(training: SimpleNamespace, folder: Path, kind: Any = None, **settings: Any) -> Any:
    arguments = training.arguments(folder / "out", **{**SETTINGS, **settings})
    torch.manual_seed(99)
    return (kind or training.Watching)(training.build(), arguments, train_dataset=training.Rows())


def notes(tmp_path: Path) -> str:
    return "; ".join(json.loads((tmp_path / "report.json").read_text())["notes"])


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@pytest.mark.parametrize("step", [6, 8])  # the end of the first epoch, the middle of the second
def test_a_training_goes_on_as_if_it_had_never_stopped(
    auto: SimpleNamespace, finished: SimpleNamespace, give: Give, tmp_path: Path, step: int
) -> None:
    give(checkpoint := finished.folder / f"checkpoint-{step}")
    before = set(vars(trainer := trainer_of(auto, tmp_path)))
    trainer.train()
    assert {key for key, value in facts(auto, trainer).items() if not same(value, finished.facts[key])} == set()
    assert same(trainer.first, load_file(checkpoint / "model.safetensors"))
    assert not {name for name in vars(trainer).keys() - before if name.startswith("_load")}
    assert f"went on at step {step}, with optimizer, scheduler, random states of the checkpoint" in notes(tmp_path)


def test_a_script_that_never_mentions_preheat_goes_on_and_reads_no_pickle(
    finished: SimpleNamespace, give: Give, tmp_path: Path
) -> None:
    give(finished.folder / "checkpoint-8")
    bundle = Path(os.environ["PREHEAT_BUNDLE"])
    done = Pod(lay_out_shim(tmp_path / "shim"), tmp_path, bundle).succeed(
        f"{TRAINER}{PICKLES}\ntrainer = Watching(build(), arguments(**{SETTINGS}), train_dataset=Rows())\n"
        "trainer.train()\ntorch.save([losses(trainer), trainer.model.state_dict()], 'resumed.pt')\n"
    )
    losses, weights = torch.load(tmp_path / "resumed.pt", weights_only=True)
    assert (losses, same(weights, finished.facts["weights"])) == (finished.facts["losses"], True)
    assert done.stderr.count("Preheat: loaded") == 2  # the last report has what was restored


def test_it_goes_on_once_and_also_after_it_was_evaluated(
    auto: SimpleNamespace, finished: SimpleNamespace, give: Give, tmp_path: Path
) -> None:
    give(finished.folder / "checkpoint-8")
    trainer = trainer_of(auto, tmp_path)
    trainer.evaluate(auto.Rows())
    trainer.train()
    assert auto.losses(trainer) == finished.facts["losses"]
    trainer.args.max_steps = 1
    trainer.train()
    assert [step for step, _ in auto.losses(trainer)] == [1]  # a fresh run of the trained model


def test_a_checkpoint_of_the_run_itself_wins(
    auto: SimpleNamespace, finished: SimpleNamespace, give: Give, tmp_path: Path
) -> None:
    give(finished.folder / "checkpoint-8")
    trainer = trainer_of(auto, tmp_path)
    trainer.train(resume_from_checkpoint=str(finished.folder / "checkpoint-10"))
    assert same(trainer.first, load_file(finished.folder / "checkpoint-10" / "model.safetensors"))
    assert auto.losses(trainer) == finished.facts["losses"]
    assert "checkpoint-10 over it, as resume_from_checkpoint asks" in notes(tmp_path)


def saved_by_others(finished: SimpleNamespace, kind: str) -> dict[str, Any]:
    """Step 8 as other libraries save it."""
    folder = finished.folder / "checkpoint-8"
    weights = load_file(folder / "model.safetensors")
    optimizer, scheduler = (torch.load(folder / name, weights_only=True) for name in ("optimizer.pt", "scheduler.pt"))
    if kind == "lightning":
        lists = {"optimizer_states": [optimizer], "lr_schedulers": [scheduler], "loops": {}, "callbacks": {}}
        return {"state_dict": weights, "global_step": 8, "epoch": 1, **lists}
    return {"model": weights, "optimizer": optimizer, "scheduler": scheduler, "global_step": 8}


@pytest.mark.parametrize("kind", ["lightning", "torch"])
def test_a_checkpoint_of_another_library_goes_on_at_its_step(
    auto: SimpleNamespace, finished: SimpleNamespace, give: Give, tmp_path: Path, kind: str
) -> None:
    torch.save(saved_by_others(finished, kind), tmp_path / "other.pt")
    give(tmp_path / "other.pt")
    trainer = trainer_of(auto, tmp_path)
    trainer.train()
    assert [step for step, _ in auto.losses(trainer)] == [9, 10, 11, 12]
    assert trainer.lr_scheduler.last_epoch == 12
    assert "went on at step 8, with optimizer, scheduler of the checkpoint; random states were not" in notes(tmp_path)


def refused(trainer: Any, error: type[Exception], words: str, *, touched: bool = False) -> None:
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(error, match=words) as caught:
        trainer.train()
    assert ("the model was touched" in str(caught.value)) is touched
    assert touched or same(trainer.model.state_dict(), before)
    assert trainer.state.global_step in (0, 8)


def test_a_checkpoint_that_does_not_say_its_step_is_refused(
    auto: SimpleNamespace, finished: SimpleNamespace, give: Give, tmp_path: Path
) -> None:
    saved = saved_by_others(finished, "torch")
    del saved["global_step"]
    torch.save(saved, tmp_path / "other.pt")
    give(tmp_path / "other.pt")
    refused(trainer_of(auto, tmp_path), CheckpointIncompatibleError, "does not say at which step it was saved")


def test_trainers_that_cannot_go_on_are_refused_before_anything_is_touched(
    auto: SimpleNamespace, finished: SimpleNamespace, give: Give, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OwnLoop(auto.Watching):  # type: ignore[misc,name-defined]
        def _inner_training_loop(self, **_: Any) -> None: ...

    give(finished.folder / "checkpoint-8")
    own = trainer_of(auto, tmp_path, OwnLoop)
    refused(own, CheckpointIncompatibleError, "OwnLoop has a training loop of its own")
    sharded = trainer_of(auto, tmp_path)
    monkeypatch.setattr(type(sharded.accelerator), "distributed_type", SimpleNamespace(name="FSDP"))
    refused(sharded, CheckpointIncompatibleError, "the training goes by FSDP1, which restores optimizers")
    monkeypatch.undo()
    give(finished.folder / "checkpoint-8")
    monkeypatch.setattr(auto.Trainer, "_load_rng_state", None)
    refused(trainer_of(auto, tmp_path), UnsupportedVersionError, "in a way that Preheat does not know")


def test_another_optimizer_is_refused_before_the_first_step(
    auto: SimpleNamespace, finished: SimpleNamespace, give: Give, tmp_path: Path
) -> None:
    give(finished.folder / "checkpoint-8")
    other = trainer_of(auto, tmp_path, optim="sgd")
    refused(other, CheckpointIncompatibleError, "it is another kind of optimizer", touched=True)


def test_a_trainer_that_does_not_restore_is_refused_before_the_first_step(
    auto: SimpleNamespace, finished: SimpleNamespace, give: Give, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(finished.folder / "checkpoint-8")
    state = type(trainer_of(auto, tmp_path).state)
    monkeypatch.setattr(state, "load_from_json", classmethod(lambda cls, path: cls(train_batch_size=2)))
    trainer = trainer_of(auto, tmp_path)
    words = "did not restore the training state: it is at step 0, the checkpoint at 8"
    refused(trainer, NoWeightsError, words, touched=True)
