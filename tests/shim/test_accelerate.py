"""Accelerate with the shim: a script in a pod that never mentions Preheat, and its cases in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from shim.bundles import WEIGHTS_ONLY, write_bundle
from shim.pod import Pod, lay_out_shim
from shim.trainings import ACCELERATE, defined_by, hooked

import preheat
from preheat.bundle.store import Store
from preheat.errors import CheckpointIncompatibleError, NothingMatchedError, UnsupportedVersionError
from preheat.prepare import prepare
from preheat.shim import accelerate as shim
from preheat.spec import parse

pytestmark = pytest.mark.filterwarnings("ignore")  # of Accelerate and what it uses

Weights = Mapping[str, torch.Tensor]


@pytest.fixture(scope="module")
def training() -> SimpleNamespace:
    return defined_by(ACCELERATE)


@pytest.fixture(scope="module")
def weights(training: SimpleNamespace) -> Weights:
    return dict(training.build(seed=9).state_dict())


@pytest.fixture
def auto(
    training: SimpleNamespace, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SimpleNamespace]:
    """The training in a process that has a bundle of `weights` and applies it by itself."""
    monkeypatch.setenv("PREHEAT_BUNDLE", str(write_bundle(tmp_path / "bundle", weights, [WEIGHTS_ONLY])))
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    with hooked(shim, training.Accelerator, monkeypatch):
        yield training


def equal(model: Any, weights: Weights) -> bool:
    state = model.state_dict()
    return all(torch.equal(state[name], value) for name, value in weights.items())


def notes(tmp_path: Path) -> str:
    return "; ".join(json.loads((tmp_path / "report.json").read_text())["notes"])


def test_a_script_that_never_mentions_preheat_trains_from_the_checkpoint(tmp_path: Path, weights: Weights) -> None:
    pod = Pod(lay_out_shim(tmp_path / "shim"), tmp_path, write_bundle(tmp_path / "bundle", weights, [WEIGHTS_ONLY]))
    done = pod.succeed(ACCELERATE + """
accelerator, model = Accelerator(cpu=True), build()
model, optimizer = accelerator.prepare(model, optimizer_of(model))
first = {name: value.clone() for name, value in model.state_dict().items()}
train(accelerator, model, optimizer, steps=[0])
torch.save([first, model.state_dict()], "out.pt")
""")  # fmt: skip
    first, last = torch.load(tmp_path / "out.pt", weights_only=True)
    assert all(torch.equal(first[name], value) for name, value in weights.items())
    assert not torch.equal(last["head.weight"], weights["head.weight"])
    assert done.stderr.count("preheat.report {") == 1


def test_a_teacher_that_no_optimizer_trains_is_left_as_it_is(auto: SimpleNamespace, weights: Weights) -> None:
    accelerator, teacher, student = auto.Accelerator(cpu=True), auto.build(1), auto.build(2)
    accelerator.prepare(teacher)
    accelerator.prepare(teacher, student, auto.optimizer_of(student))
    assert equal(student, weights)
    assert equal(teacher, auto.build(1).state_dict())


def test_the_first_of_several_models_that_the_checkpoint_fits_is_filled(
    auto: SimpleNamespace, weights: Weights, tmp_path: Path
) -> None:
    accelerator, wider, fitting, other = auto.Accelerator(cpu=True), auto.build(1, 9), auto.build(2), auto.build(3)
    models = [wider, fitting, other]
    accelerator.prepare(*models, *map(auto.optimizer_of, models))
    assert equal(fitting, weights)
    assert equal(wider, auto.build(1, 9).state_dict())
    assert equal(other, auto.build(3).state_dict())
    assert notes(tmp_path).count("ModuleDict, which is trained beside it, was left as it is") == 2


def test_a_model_that_is_prepared_later_is_left_and_a_new_training_is_filled(
    auto: SimpleNamespace, weights: Weights
) -> None:
    accelerator, first, second = auto.Accelerator(cpu=True), auto.build(1), auto.build(2)
    for model in (first, second):
        accelerator.prepare(model, auto.optimizer_of(model))
    assert [equal(model, weights) for model in (first, second)] == [True, False]
    accelerator.free_memory()
    accelerator.prepare(second, auto.optimizer_of(second))
    assert equal(second, weights)


def test_an_optimizer_that_is_prepared_after_its_model_says_what_is_trained(
    auto: SimpleNamespace, weights: Weights
) -> None:
    accelerator = auto.Accelerator(cpu=True)
    model = accelerator.prepare(auto.build())
    assert not equal(model, weights)
    accelerator.prepare(auto.optimizer_of(model))
    assert equal(model, weights)


def test_a_model_that_the_script_gave_to_apply_is_left_alone(auto: SimpleNamespace) -> None:
    preheat.apply(model := auto.build())
    with torch.no_grad():
        model["head"].weight.zero_()
    auto.Accelerator(cpu=True).prepare(model, auto.optimizer_of(model))
    assert not model["head"].weight.any()


def test_a_checkpoint_that_fits_no_model_is_refused_by_what_it_says_of_the_first(
    auto: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREHEAT_BUNDLE", str(write_bundle(tmp_path / "other", {"net.weight": torch.ones(4, 4)})))
    accelerator, model = auto.Accelerator(cpu=True), auto.build()
    with pytest.raises(NothingMatchedError, match="no name of the checkpoint is in the model"):
        accelerator.prepare(model, auto.optimizer_of(model))
    assert accelerator._models == []


@pytest.fixture
def give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    def bundle(checkpoint: Path) -> None:
        stages = [{"local": {"path": str(checkpoint)}}, {"warmStart": {}}]
        folder = prepare(parse({"stages": stages}), Store(tmp_path / "volume"), "test").folder
        monkeypatch.setenv("PREHEAT_BUNDLE", str(folder))

    return bundle


def halfway(training: SimpleNamespace, tmp_path: Path) -> tuple[Path, list[float]]:
    """A training of 6 steps: what Accelerate saved after 3 of them, and its losses from there."""
    accelerator, model = training.Accelerator(cpu=True), training.build()
    optimizer = training.optimizer_of(model)
    prepared = accelerator.prepare(model, optimizer, training.scheduler_of(optimizer))
    training.train(accelerator, *prepared, steps=range(3))
    accelerator.save_state(tmp_path / "saved")
    return tmp_path / "saved", training.train(accelerator, *prepared, steps=range(3, 6))


def test_a_warm_start_restores_what_is_prepared_together(
    auto: SimpleNamespace, give: Callable[[Path], None], tmp_path: Path
) -> None:
    saved, losses = halfway(auto, tmp_path)
    give(saved)
    accelerator, model = auto.Accelerator(cpu=True), auto.build(seed=1)
    optimizer = auto.optimizer_of(model)
    prepared = accelerator.prepare(model, optimizer, auto.scheduler_of(optimizer))
    assert auto.train(accelerator, *prepared, steps=range(3, 6)) == losses
    assert "restored AdamW (4 parameters by position), MultiStepLR" in notes(tmp_path)


def test_two_processes_of_a_distributed_training_go_on_alike(
    auto: SimpleNamespace, give: Callable[[Path], None], tmp_path: Path
) -> None:
    saved, losses = halfway(auto, tmp_path)
    give(saved)
    pod = Pod(lay_out_shim(tmp_path / "shim"), tmp_path, Path(os.environ["PREHEAT_BUNDLE"]))
    (tmp_path / "ranks.py").write_text(ACCELERATE + """
accelerator = Accelerator(cpu=True)
model = build(seed=accelerator.process_index)
optimizer = optimizer_of(model)
prepared = accelerator.prepare(model, optimizer, scheduler_of(optimizer))
torch.save(train(accelerator, *prepared, steps=range(3, 6)), f"losses{accelerator.process_index}.pt")
accelerator.end_training()
""")  # fmt: skip
    pod.succeed(
        "import sys; sys.argv[1:] = ['--standalone', '--nproc-per-node', '2', 'ranks.py']\n"
        "from torch.distributed.run import main; main()\n",
        OMP_NUM_THREADS="1",
    )
    found = [torch.load(tmp_path / f"losses{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert found[0] == found[1]
    assert found[0][0] == pytest.approx(losses[0])  # then the scheduler takes a step for each process
    assert "restored AdamW" in json.loads(pod.report.with_name("report-rank1.json").read_text())["notes"][0]


@pytest.mark.parametrize(("settings", "expected"), [({}, "on the CPU"), ({"capturable": True}, "on the device")])
def test_counts_of_steps_stay_where_torch_reads_them(settings: dict[str, bool], expected: str) -> None:
    count = SimpleNamespace(where="on the device", cpu=lambda: SimpleNamespace(where="on the CPU"))
    optimizer = torch.optim.AdamW([parameter := torch.nn.Parameter(torch.ones(2))], **settings)
    optimizer.state[parameter] = {"step": count}
    shim.count_on_cpu(optimizer)
    assert optimizer.state[parameter]["step"].where == expected


def test_a_warm_start_that_would_restore_half_is_refused_before_anything_is_touched(
    auto: SimpleNamespace, give: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(halfway(auto, tmp_path)[0])
    accelerator, model = auto.Accelerator(cpu=True), auto.build(seed=1)
    optimizer = auto.optimizer_of(model)
    with pytest.raises(CheckpointIncompatibleError, match=r"the state of 1 schedulers .* and 0 were given"):
        accelerator.prepare(model, optimizer)
    given = [model, optimizer, auto.scheduler_of(optimizer)]
    monkeypatch.setattr(type(accelerator), "distributed_type", SimpleNamespace(name="FSDP"))
    with pytest.raises(CheckpointIncompatibleError, match="goes by FSDP1, which restores optimizers in its own way"):
        accelerator.prepare(*given)
    assert equal(model, auto.build(seed=1).state_dict())


def test_a_version_that_is_not_known_is_refused_unless_the_script_applies(
    training: SimpleNamespace, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREHEAT_BUNDLE", str(write_bundle(tmp_path / "bundle", weights, [WEIGHTS_ONLY])))
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    with monkeypatch.context() as patch:
        patch.setattr(training.Accelerator, "prepare", None)
        with hooked(shim, training.Accelerator, monkeypatch):
            with pytest.raises(UnsupportedVersionError, match=r"accelerate .* its Accelerator has no prepare"):
                training.Accelerator(cpu=True)
            preheat.apply(training.build())
            training.Accelerator(cpu=True)
