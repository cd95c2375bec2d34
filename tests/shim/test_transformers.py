"""Transformers' Trainer with the shim: a script in a pod that never mentions Preheat, and its cases in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from shim.bundles import WEIGHTS_ONLY, write_bundle
from shim.pod import Pod, lay_out_shim
from shim.trainings import TRAINER, defined_by, hooked

import preheat
from preheat.errors import CheckpointConfigError, NothingMatchedError, UnsupportedVersionError
from preheat.shim import transformers as shim

pytestmark = pytest.mark.filterwarnings("ignore")  # of Transformers and what it uses

Weights = Mapping[str, torch.Tensor]


@pytest.fixture(scope="module")
def training() -> SimpleNamespace:
    return defined_by(TRAINER)


@pytest.fixture(scope="module")
def weights(training: SimpleNamespace) -> Weights:
    return {name: value + 0.25 for name, value in training.build().state_dict().items()}


@pytest.fixture
def auto(
    training: SimpleNamespace, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SimpleNamespace]:
    """The training in a process that has a bundle of `weights` and applies it by itself."""
    monkeypatch.setenv("PREHEAT_BUNDLE", str(write_bundle(tmp_path / "bundle", weights, [WEIGHTS_ONLY])))
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    with hooked(shim, training.Trainer, monkeypatch):
        yield training


def trainer_of(training: SimpleNamespace, folder: Path, model: Any = None, **settings: Any) -> Any:
    given = {"train_dataset": training.Rows(), "eval_dataset": training.Rows()}
    if "model_init" not in settings:
        given["model"] = training.build() if model is None else model
    made = {name: settings.pop(name) for name in ("model_init", "optimizers") if name in settings}
    arguments = training.arguments(folder / "out", **{"max_steps": 2, **settings})
    return training.Watching(args=arguments, **given, **made)


def equal(state: Weights, weights: Weights) -> bool:
    return all(torch.equal(state[name], value) for name, value in weights.items())


def notes(tmp_path: Path) -> str:
    return "; ".join(json.loads((tmp_path / "report.json").read_text())["notes"])


def test_a_script_that_never_mentions_preheat_trains_from_the_checkpoint(tmp_path: Path, weights: Weights) -> None:
    pod = Pod(lay_out_shim(tmp_path / "shim"), tmp_path, write_bundle(tmp_path / "bundle", weights, [WEIGHTS_ONLY]))
    done = pod.succeed(TRAINER + """
import sys
trainer = Watching(build(), arguments(max_steps=2), train_dataset=Rows())
trainer.train()
torch.save([trainer.first, trainer.model.state_dict()], "out.pt")
assert not any("preheat" in type(finder).__module__ for finder in sys.meta_path)
""")  # fmt: skip
    first, last = torch.load(tmp_path / "out.pt", weights_only=True)
    assert equal(first, weights)
    assert not equal(last, weights)
    assert done.stderr.count("preheat.report {") == 1
    assert f"Preheat: loaded {len(weights)} of {len(weights)} tensors" in done.stderr


def test_every_model_that_is_trained_is_filled_once(auto: SimpleNamespace, weights: Weights, tmp_path: Path) -> None:
    trainer = trainer_of(auto, tmp_path)
    trainer.train()
    assert equal(trainer.first, weights)
    trainer.train()
    assert not equal(trainer.first, weights)
    (again := trainer_of(auto, tmp_path)).train()
    assert equal(again.first, weights)


def test_models_that_the_trainer_makes_itself_are_filled(
    auto: SimpleNamespace, weights: Weights, tmp_path: Path
) -> None:
    trainer = trainer_of(auto, tmp_path, model_init=lambda: auto.build())
    assert not equal(trainer.model.state_dict(), weights)
    for _ in range(2):  # as a search for hyper-parameters does it
        trainer.train()
        assert equal(trainer.first, weights)


def test_an_optimizer_that_was_built_before_trains_the_filled_model(
    auto: SimpleNamespace, weights: Weights, tmp_path: Path
) -> None:
    model = auto.build()
    trainer_of(auto, tmp_path, model, optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None)).train()
    trained = model.state_dict()
    assert not equal(trained, weights)
    assert all((trained[name] - value).abs().max() < 0.2 for name, value in weights.items())


def test_adapters_of_the_pipeline_are_what_is_trained_or_refused_where_the_optimizer_is_there(
    auto: SimpleNamespace, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [WEIGHTS_ONLY, {"lora": {"rank": 2, "targets": ["query"]}}]
    monkeypatch.setenv("PREHEAT_BUNDLE", str(write_bundle(tmp_path / "lora", weights, stages)))
    (trainer := trainer_of(auto, tmp_path)).train()
    last = trainer.model.state_dict()
    changed = {name.split(".")[-3] for name, value in trainer.first.items() if not torch.equal(last[name], value)}
    assert changed == {"lora_A", "lora_B"}
    model = auto.build()
    trainer = trainer_of(auto, tmp_path, model, optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None))
    with pytest.raises(CheckpointConfigError, match="that the optimizer, which is there already, would not train"):
        trainer.train()


@pytest.mark.parametrize("method", ["evaluate", "predict"])
def test_evaluation_fills_the_first_model_and_leaves_a_later_one(
    auto: SimpleNamespace, weights: Weights, tmp_path: Path, method: str
) -> None:
    given = [auto.Rows()] if method == "predict" else []
    for filled in (True, False):
        getattr(trainer := trainer_of(auto, tmp_path), method)(*given)
        assert equal(trainer.model.state_dict(), weights) is filled
    trainer.train()
    assert equal(trainer.first, weights)


def test_a_model_that_the_script_gave_to_apply_is_left_alone(
    auto: SimpleNamespace, weights: Weights, tmp_path: Path
) -> None:
    preheat.apply(model := auto.build())
    with torch.no_grad():
        model.classifier.weight.zero_()
    (trainer := trainer_of(auto, tmp_path, model)).train()
    assert not trainer.first["classifier.weight"].any()
    assert equal(trainer.first, {name: value for name, value in weights.items() if name != "classifier.weight"})


def test_the_trainers_own_restore_wins_and_is_reported(auto: SimpleNamespace, weights: Weights, tmp_path: Path) -> None:
    trainer_of(auto, tmp_path, save_strategy="steps", save_steps=1).train()
    trainer = trainer_of(auto, tmp_path, max_steps=3)
    trainer.train(resume_from_checkpoint=True)
    assert not equal(trainer.first, weights)
    assert [step for step, _ in auto.losses(trainer)] == [1, 2, 3]
    assert f"Transformers then restored {tmp_path / 'out' / 'checkpoint-2'} over it" in notes(tmp_path)


def test_a_checkpoint_that_does_not_fit_stops_before_the_first_step(
    auto: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_bundle(tmp_path / "other", {"net.weight": torch.ones(4, 4)})
    monkeypatch.setenv("PREHEAT_BUNDLE", str(other))
    trainer = trainer_of(auto, tmp_path)
    with pytest.raises(NothingMatchedError, match="no name of the checkpoint is in the model"):
        trainer.train()
    assert trainer.first is None
    monkeypatch.setenv("PREHEAT_ON_FAILURE", "Continue")
    trainer.train()
    assert equal(trainer.first, auto.build().state_dict())


def test_a_version_that_is_not_known_is_refused_unless_the_script_applies(
    training: SimpleNamespace, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREHEAT_BUNDLE", str(write_bundle(tmp_path / "bundle", weights, [WEIGHTS_ONLY])))
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_inner_training_loop", None)
        with hooked(shim, training.Trainer, monkeypatch):
            with pytest.raises(UnsupportedVersionError, match=r"transformers .* its Trainer has no _inner_training_l"):
                trainer_of(training, tmp_path)
            preheat.apply(model := training.build())
            trainer_of(training, tmp_path, model)
