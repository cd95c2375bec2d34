"""Warm starts of plain torch: from a bundle and in one process, what they restore and what they refuse."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import get_state_dict

import preheat
from preheat import CheckpointContext, CheckpointPipeline
from preheat.bundle.store import Store
from preheat.errors import (
    CheckpointConfigError,
    CheckpointIncompatibleError,
    CheckpointValidationError,
    NotABundleError,
    NothingMatchedError,
)
from preheat.prepare import prepare
from preheat.spec import parse

ANEMOI = {"_target_": "anemoi.training.checkpoint.loaders.WarmStartLoader"}
NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]


class Training:
    """A model, its optimizer and its scheduler, and steps that depend on nothing but their number."""

    def __init__(self, seed: int = 0, optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer] | None = None):
        torch.manual_seed(seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        self.optimizer = (optimizer or two_groups)(self.model)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [3, 12])

    def steps(self, first: int, last: int) -> list[float]:
        losses = []
        for number in range(first, last):
            rows = torch.randn(4, 8, generator=torch.Generator().manual_seed(number))
            loss = (self.model(rows) - rows.sum(1, keepdim=True)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            losses.append(loss.item())
        return losses

    def saved(self) -> dict[str, Any]:
        return {
            "model_state_dict": self.model.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scheduler_state_dict": self.scheduler.state_dict(),
            "epoch": 3,
            "global_step": 10,
            "best": math.inf,
            "history": {1: (0.5, "a")},
            "rng": torch.get_rng_state(),
        }


def two_groups(model: torch.nn.Module) -> torch.optim.Optimizer:
    first, last = model.get_submodule("0"), model.get_submodule("2")
    return torch.optim.AdamW([{"params": first.parameters(), "lr": 1e-2}, {"params": last.parameters()}], lr=1e-3)


def by_name(order: list[str]) -> Callable[[torch.nn.Module], torch.optim.Optimizer]:
    """An optimizer that knows the names of its parameters, in this order."""
    return lambda model: torch.optim.AdamW([(name, model.get_parameter(name)) for name in order], lr=1e-2)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    def made(checkpoint: Any, *stages: dict[str, Any], strategy: dict[str, Any] | None = None) -> Path:
        torch.save(checkpoint, tmp_path / "run.pt")
        document = {"stages": [{"local": {"path": str(tmp_path / "run.pt")}}, *stages, strategy or {"warmStart": {}}]}
        folder = prepare(parse(document), Store(tmp_path / "volume"), "test").folder
        monkeypatch.setenv("PREHEAT_BUNDLE", str(folder))
        return folder

    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    return made


@pytest.fixture
def halfway() -> Training:
    training = Training()
    training.steps(0, 10)
    return training


def resume(training: Training) -> Any:
    return preheat.apply(training.model, training.optimizer, training.scheduler)


def in_one_process(checkpoint: Any, training: Training, folder: Path, strategy: Any) -> CheckpointContext:
    torch.save(checkpoint, folder / "one.pt")
    stages = [{"local": {"path": str(folder / "one.pt")}}, strategy]
    context = CheckpointContext(model=training.model, optimizer=training.optimizer, scheduler=training.scheduler)
    return CheckpointPipeline(stages).execute_sync(context)


def test_a_training_goes_on_from_its_bundle_as_if_it_had_never_stopped(
    halfway: Training, bundle: Callable[..., Path], tmp_path: Path
) -> None:
    folder = bundle(halfway.saved(), {"verify": {"finite": True}})
    resumed = Training(seed=1)
    report = resume(resumed)
    assert resumed.steps(10, 20) == halfway.steps(10, 20)
    assert resumed.optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    assert report.strategy == "warm_start"
    assert report.notes == ("restored AdamW (4 parameters by position), MultiStepLR, epoch 3, global_step 10",)
    assert {key: report.state[key] for key in ("epoch", "global_step", "best", "history")} == {
        "epoch": 3, "global_step": 10, "best": math.inf, "history": {1: (0.5, "a")},
    }  # fmt: skip
    assert torch.equal(report.state["rng"], torch.load(tmp_path / "run.pt", weights_only=True)["rng"])
    assert "state" not in json.loads((tmp_path / "report.json").read_text())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {"model.safetensors", "state.json", "state.safetensors"}
    assert manifest["left"]["stateTensors"] == 0
    assert "optimizer_state_dict.state.3.exp_avg" in load_file(folder / "state.safetensors")


@pytest.mark.parametrize("strategy", [{"warmStart": {"strict": True}}, ANEMOI], ids=["ours", "anemoi"])
def test_in_one_process_it_needs_no_bundle(halfway: Training, tmp_path: Path, strategy: Any) -> None:
    resumed = Training(seed=1)
    context = in_one_process(halfway.saved(), resumed, tmp_path, strategy)
    assert context.optimizer is resumed.optimizer
    assert (context.metadata["epoch"], context.metadata["global_step"]) == (3, 10)
    assert context.metadata["loading_strategy"] == "warm_start"
    assert resumed.steps(10, 20) == halfway.steps(10, 20)


def test_a_mapping_of_the_callers_own_stays_as_it_is(halfway: Training) -> None:
    given, resumed = copy.deepcopy(halfway.saved()), Training(seed=1)
    context = CheckpointContext(
        model=resumed.model, optimizer=resumed.optimizer, scheduler=resumed.scheduler, checkpoint_data=given
    )
    CheckpointPipeline([{"warmStart": {}}]).execute_sync(context)
    assert resumed.steps(10, 20) == halfway.steps(10, 20)
    assert not given["optimizer_state_dict"]["state"][0]["exp_avg"].equal(
        resumed.optimizer.state_dict()["state"][0]["exp_avg"]
    )


def test_parameters_are_matched_by_name_where_there_are_names(bundle: Callable[..., Path]) -> None:
    halfway = Training(optimizer=by_name(NAMES))
    halfway.steps(0, 10)
    bundle(halfway.saved())
    resumed = Training(seed=1, optimizer=by_name(NAMES[::-1]))
    assert "AdamW (4 parameters by name)" in resume(resumed).notes[0]
    assert resumed.steps(10, 14) == halfway.steps(10, 14)
    names = resumed.optimizer.param_groups[0]["param_names"]
    assert names == NAMES[::-1]


def test_states_that_are_keyed_by_name_are_taken(halfway: Training, bundle: Callable[..., Path]) -> None:
    checkpoint = halfway.saved()
    saved = checkpoint["optimizer_state_dict"]
    saved["state"] = {NAMES[key]: value for key, value in saved["state"].items()}
    for group in saved["param_groups"]:
        group["params"] = [NAMES[key] for key in group["params"]]
    bundle(checkpoint)
    resumed = Training(seed=1)
    assert "by name" in resume(resumed).notes[0]
    assert resumed.steps(10, 14) == halfway.steps(10, 14)


@pytest.mark.filterwarnings("ignore")  # torch's own, about the process group that there is not
def test_a_folder_of_torch_distributed_goes_on_by_name(
    halfway: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = get_state_dict(halfway.model, halfway.optimizer)
    state = {"model": model, "optim": optimizer, "lr_scheduler": halfway.scheduler.state_dict(), "epoch": 3}
    torch.distributed.checkpoint.save(state, checkpoint_id=str(tmp_path / "saved"))
    document = {"stages": [{"local": {"path": str(tmp_path / "saved")}}, {"warmStart": {}}]}
    monkeypatch.setenv("PREHEAT_BUNDLE", str(prepare(parse(document), Store(tmp_path / "volume"), "test").folder))
    resumed = Training(seed=1)
    assert "AdamW (4 parameters by name), MultiStepLR, epoch 3" in resume(resumed).notes[0]
    assert resumed.steps(10, 20) == halfway.steps(10, 20)  # the milestone at step 12 is a number again


def test_a_compiled_model_has_the_same_parameters(bundle: Callable[..., Path]) -> None:
    halfway = Training(optimizer=by_name(NAMES))
    halfway.steps(0, 3)
    checkpoint = halfway.saved()
    [group] = checkpoint["optimizer_state_dict"]["param_groups"]
    group["param_names"] = [f"_orig_mod.{name}" for name in NAMES]
    bundle(checkpoint)
    resumed = Training(seed=1, optimizer=by_name(NAMES[::-1]))
    assert "AdamW (4 parameters by name)" in resume(resumed).notes[0]
    assert resumed.steps(3, 6) == halfway.steps(3, 6)


def test_several_optimizers_are_given_in_the_checkpoints_order(bundle: Callable[..., Path]) -> None:
    one, other = Training(), Training(seed=2)
    one.steps(0, 3)
    other.steps(0, 5)
    both = {"state_dict": one.model.state_dict(), "opt": [one.optimizer.state_dict(), other.optimizer.state_dict()]}
    bundle(both)
    model = Training(seed=4)
    second = two_groups(model.model)
    preheat.apply(model.model, [model.optimizer, second])
    steps = [int(each.state_dict()["state"][0]["step"]) for each in (model.optimizer, second)]
    assert steps == [3, 5]


def test_an_optimizer_without_tensors_needs_no_file_for_them(bundle: Callable[..., Path]) -> None:
    def sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    halfway = Training(optimizer=sgd)
    halfway.steps(0, 5)
    checkpoint = {key: value for key, value in halfway.saved().items() if key != "rng"}
    assert not (bundle(checkpoint) / "state.safetensors").exists()
    resumed = Training(seed=1, optimizer=sgd)
    resume(resumed)
    assert resumed.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_weights_may_arrive_in_another_precision_and_moments_follow_their_parameters(
    halfway: Training, bundle: Callable[..., Path]
) -> None:
    folder = bundle(halfway.saved(), {"convert": {"dtype": "bfloat16"}})
    assert load_file(folder / "state.safetensors")["optimizer_state_dict.state.0.exp_avg"].dtype == torch.float32
    resumed = Training(seed=1)
    resumed.model.bfloat16()
    resume(resumed)
    state = resumed.optimizer.state_dict()["state"][0]
    assert (state["exp_avg"].dtype, state["step"].dtype) == (torch.bfloat16, torch.float32)


def fewer(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([{"params": [model.get_parameter("0.weight")]}, {"params": model[2].parameters()}])  # type: ignore[index]


def swapped(model: torch.nn.Module) -> torch.optim.Optimizer:
    first, last = model.get_submodule("0"), model.get_submodule("2")
    return torch.optim.AdamW([{"params": last.parameters()}, {"params": first.parameters()}])


def single(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters())


def momentum(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[2].parameters()}], 0.1, 0.9)  # type: ignore[index]


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (single, r"2 parameter groups \(of 2, 2 parameters\), AdamW has 1 parameter group \(of 4 parameters\)"),
        (fewer, "parameter group 0 of the checkpoint's optimizer has 2 parameters, the optimizer's has 1"),
        (
            swapped,
            r"the optimizer's exp_avg of 2.weight has shape \[16, 8\] in the checkpoint, the parameter \[1, 16\]",
        ),
        (momentum, "has amsgrad, betas, eps, the optimizer's has dampening, momentum, nesterov: it is another kind"),
    ],
)
def test_an_optimizer_that_changed_is_refused_untouched(
    halfway: Training, bundle: Callable[..., Path], optimizer: Any, message: str
) -> None:
    bundle(halfway.saved())
    resumed = Training(seed=1, optimizer=optimizer)
    before = copy.deepcopy(resumed.model.state_dict())
    with pytest.raises(CheckpointIncompatibleError, match=message):
        resume(resumed)
    assert all(torch.equal(value, before[name]) for name, value in resumed.model.state_dict().items())
    assert not resumed.optimizer.state


def test_groups_with_other_names_say_which(bundle: Callable[..., Path]) -> None:
    halfway = Training(optimizer=by_name(NAMES[:3]))
    halfway.steps(0, 2)
    bundle(halfway.saved())
    with pytest.raises(CheckpointIncompatibleError, match=r"one without 2\.bias and with 0\.weight, unlike"):
        resume(Training(optimizer=by_name(NAMES[1:])))


def test_a_second_optimizer_is_not_left_fresh_without_a_word(halfway: Training, bundle: Callable[..., Path]) -> None:
    bundle(halfway.saved())
    resumed = Training(seed=1)
    assert resume(resumed) is resume(resumed)
    assert preheat.apply(resumed.model).strategy == "warm_start"
    with pytest.raises(CheckpointConfigError, match="gone on from its checkpoint already, with another optimizer"):
        preheat.apply(resumed.model, two_groups(resumed.model))


def test_what_is_missing_on_either_side_is_refused(halfway: Training, bundle: Callable[..., Path]) -> None:
    bundle(halfway.saved())
    fresh = Training(seed=1)
    with pytest.raises(CheckpointConfigError, match="a warm start needs the optimizer, and was given none"):
        preheat.apply(fresh.model)
    with pytest.raises(CheckpointIncompatibleError, match=r"1 schedulers \(scheduler_state_dict\), and 0 were given"):
        preheat.apply(fresh.model, fresh.optimizer)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(fresh.optimizer, 5)
    with pytest.raises(
        CheckpointIncompatibleError, match="has gamma, milestones, CosineAnnealingLR has T_max, eta_min"
    ):
        preheat.apply(fresh.model, fresh.optimizer, cosine)


def test_a_schedule_can_be_left_to_the_training_and_that_is_said(
    halfway: Training, bundle: Callable[..., Path]
) -> None:
    bundle(halfway.saved())
    fresh = Training(seed=1)
    report = preheat.apply(fresh.model, fresh.optimizer, False)
    assert "no scheduler (scheduler=False)" in str(report)
    assert fresh.scheduler.last_epoch == 0
    assert fresh.optimizer.state_dict()["state"].keys() == halfway.optimizer.state_dict()["state"].keys()


def test_weights_that_do_not_fit_leave_the_optimizer_alone(halfway: Training, bundle: Callable[..., Path]) -> None:
    checkpoint = halfway.saved()
    del checkpoint["model_state_dict"]["2.bias"]
    bundle(checkpoint)
    resumed = Training(seed=1)
    with pytest.raises(CheckpointIncompatibleError, match=r"1 of the model are not in the checkpoint: 2\.bias"):
        resume(resumed)
    assert not resumed.optimizer.state
    bundle(checkpoint, strategy={"warmStart": {"strict": False}})
    assert resume(resumed).left_initial == {"2.bias": "not in the checkpoint"}


def test_an_object_in_the_optimizers_state_is_refused_and_elsewhere_told(
    halfway: Training, bundle: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "preheat")
    bundle({**halfway.saved(), "args": {"out": tmp_path}})
    assert "kept by name alone, their classes are never made: args.out (pathlib.PosixPath)" in caplog.text
    report = resume(Training(seed=1))
    assert "not made of the state: args.out (pathlib.PosixPath)" in report.notes
    assert repr(report.state["args"]["out"]) == "<pathlib.PosixPath, not made>"
    checkpoint = halfway.saved()
    checkpoint["optimizer_state_dict"]["param_groups"][0]["lr"] = tmp_path
    bundle(checkpoint)
    with pytest.raises(CheckpointIncompatibleError, match=r"optimizer_state_dict\.param_groups\.0\.lr .*PosixPath"):
        resume(Training(seed=1))


def test_weights_alone_make_no_bundle(halfway: Training, bundle: Callable[..., Path]) -> None:
    with pytest.raises(NothingMatchedError, match=r"holds no optimizer's state, .* it has epoch"):
        bundle({"state_dict": halfway.model.state_dict(), "epoch": 3})


def test_a_damaged_moment_makes_no_bundle(halfway: Training, bundle: Callable[..., Path], tmp_path: Path) -> None:
    torch.save(halfway.saved(), tmp_path / "run.pt")
    content = bytearray((tmp_path / "run.pt").read_bytes())
    moment = halfway.optimizer.state_dict()["state"][0]["exp_avg"].numpy().tobytes()
    content[content.index(moment) + 5] ^= 1
    (tmp_path / "bad.pt").write_bytes(content)
    stages = [{"local": {"path": str(tmp_path / "bad.pt")}}, {"warmStart": {}}]
    with pytest.raises(CheckpointValidationError, match=r"'optimizer_state_dict\.state\.0\.exp_avg' is corrupt"):
        prepare(parse({"stages": stages}), Store(tmp_path / "volume"), "test")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "JSONDecodeError"),
        (b'{"a":{"$tensor":"no such"}}', "no such"),
        (b'{"a":{"$call":"os.system"}}', "is no spelling"),
        (b"[" * 100_000, "RecursionError"),
    ],
    ids=["empty", "reference", "spelling", "deep"],
)
def test_a_state_that_was_damaged_on_the_volume_is_refused(
    halfway: Training, bundle: Callable[..., Path], content: bytes, said: str
) -> None:
    folder = bundle(halfway.saved())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["state.json"]["bytes"] = len(content)
    (folder / "state.json").write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(NotABundleError, match=f"state.json cannot be read .*{said}"):
        resume(Training())


def test_a_bundle_whose_state_is_cut_is_refused(halfway: Training, bundle: Callable[..., Path]) -> None:
    folder = bundle(halfway.saved())
    whole = (folder / "state.safetensors").read_bytes()
    (folder / "state.safetensors").write_bytes(whole[:-1])
    with pytest.raises(NotABundleError, match=r"state\.safetensors has"):
        resume(Training())


def test_a_bundle_without_state_is_refused(halfway: Training, bundle: Callable[..., Path]) -> None:
    folder = bundle(halfway.saved(), strategy={"weightsOnly": {}})
    assert not (folder / "state.json").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "stages": [{"warmStart": {}}]}))
    with pytest.raises(NothingMatchedError, match="the bundle was made without training state"):
        resume(Training())


def test_a_model_without_memory_goes_on_too(halfway: Training, bundle: Callable[..., Path]) -> None:
    bundle(halfway.saved())
    with torch.device("meta"):
        resumed = Training()
    resume(resumed)
    assert resumed.steps(10, 15) == halfway.steps(10, 15)


def test_parameters_of_another_model_without_memory_are_refused(halfway: Training, bundle: Callable[..., Path]) -> None:
    bundle(halfway.saved())
    with torch.device("meta"):
        other = Training()
    with pytest.raises(
        CheckpointIncompatibleError, match=r"parameter 0 is on the meta device, and not one of the model"
    ):
        preheat.apply(Training().model, other.optimizer, other.scheduler)
