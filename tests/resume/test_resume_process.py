"""A process that starts again in place, without a loader: it takes what was saved meanwhile, or what is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loader.loader_process import environment
from resume.runs import POD, damage, loaded, resume, save_run, step, training
from safetensors.torch import save_file
from torch.distributed import HashStore

import preheat
from preheat.bundle.absence import Absence
from preheat.errors import CheckpointError, CheckpointIncompatibleError
from preheat.loader import Settings, load_or_go_on
from preheat.ranks import Ranks
from preheat.resume.last_words import words
from preheat.resume.starts import STARTS, Starts
from preheat.shim import starting
from preheat.shim.endings import Ending
from preheat.shim.reports.report import Report

Start = Callable[..., None]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def pod(tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Lets a loader decide, in a pod that this process is then in; `pod(again=True)`: a container starts in place."""
    monkeypatch.setattr(Ending, "watch", lambda ending: None)  # this process ends after many tests
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    monkeypatch.setenv("PREHEAT_TERMINATION_LOG", str(tmp_path / "termination-log"))
    monkeypatch.setenv("PREHEAT_BUNDLE", str(tmp_path / "volume" / "pods" / POD / "bundle"))
    save_file(training(5)[0].state_dict(), tmp_path / "pretrained.safetensors")

    def start(*modifiers: Any, again: bool = False, deaths: Any = "", **settings: Any) -> None:
        starting._begun.clear()
        if not again:
            stages = [{"local": {"path": str(tmp_path / "pretrained.safetensors")}}, {"weightsOnly": {}}, *modifiers]
            told = {"PREHEAT_DEATHS": json.dumps({"runs": {str(output / "exp-7"): deaths}})} if deaths else {}
            loaded(environment(stages, tmp_path / "volume", resume=resume(output, **settings), **told))

    return start


def applied(seed: int = 9) -> tuple[torch.nn.Module, Report]:
    model, optimizer = training(seed)
    return model, preheat.apply(model, optimizer=optimizer)


def marks(output: Path) -> list[str]:
    return [start.checkpoint for start in Starts(output / "exp-7").read()]


def name(epoch: int) -> str:
    return f"model_cp=E{epoch}_U{epoch}"


def test_a_start_in_place_goes_on_from_what_was_saved_since(pod: Start, output: Path, tmp_path: Path) -> None:
    pod()
    model, report = applied()
    assert report.strategy == "weights_only"
    assert torch.equal(model[0].weight, training(5)[0][0].weight)
    assert "begins as the stages say" in report.notes[0]
    assert report.resume["checkpoint"] is None
    save_run(output)
    pod(again=True)
    _, report = applied()
    assert (report.strategy, report.state["epoch"]) == ("warm_start", 3)
    assert report.resume == {
        "run": str(output / "exp-7"), "strategy": "warmStart", "checkpoint": name(3), "passed": []
    }  # fmt: skip
    assert json.loads((tmp_path / "report.json").read_text())["resume"]["checkpoint"] == name(3)
    assert marks(output) == [name(3)]
    _, again = applied()
    assert again.state["epoch"] == 3, "the same for all models of a process"
    assert marks(output) == [name(3)]


def test_a_damaged_newest_one_is_passed_over_before_the_model_is_touched(pod: Start, output: Path) -> None:
    save_run(output, 2)
    pod()
    third = save_run(output, 3)[-1]
    damage(third / "state.safetensors")
    pod(again=True)
    _, report = applied()
    assert report.state["epoch"] == 2
    assert report.resume["passed"][0]["checkpoint"] == name(3)


def test_a_poisoned_one_is_passed_over_in_place_and_nothing_left_is_an_end(pod: Start, output: Path) -> None:
    save_run(output, 2)
    pod(maxFailures=1)
    _, report = applied()
    assert report.state["epoch"] == 2
    pod(again=True)
    _, report = applied()
    assert report.state["epoch"] == 1
    assert report.resume["passed"][0]["why"].startswith("poisoned: a process died on it")
    pod(again=True)
    with pytest.raises(CheckpointError, match="the checkpoint that the stages begin with"):
        applied()
    pod(maxFailures=1)
    _, report = applied()
    assert report.strategy == "weights_only", "the loader of the next pod brings it"
    assert len(report.resume["passed"]) == 2


def test_who_comes_past_a_checkpoint_acquits_it(pod: Start, output: Path) -> None:
    save_run(output, 2)
    pod(maxFailures=1)
    applied()
    save_run(output, 3)
    pod(again=True)
    _, report = applied()
    assert report.state["epoch"] == 3
    assert marks(output) == [name(3)]


def test_a_refusal_is_no_death_and_is_never_passed_over(
    pod: Start, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_run(output, 2)
    pod()
    monkeypatch.setenv("PREHEAT_ON_FAILURE", "Continue")
    other = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.Linear(9, 1))
    with pytest.raises(CheckpointIncompatibleError):
        preheat.apply(other, optimizer=torch.optim.AdamW(other.named_parameters()))
    assert marks(output) == []


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the run nor the volume with the bundles takes a mark."""

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Starts, "begin", refuse)


def test_without_a_right_to_write_the_mark_is_in_the_termination_message(
    pod: Start, output: Path, tmp_path: Path, read_only: None
) -> None:
    save_run(output, 1)
    pod()
    message = tmp_path / "termination-log"
    message.touch()
    _, report = applied()
    assert report.state["epoch"] == 1
    said = words(message.read_text())
    assert (said["run"], said["checkpoint"], said["ranks"]) == (str(output / "exp-7"), name(1), [0])
    assert said["saved"] < said["began"]
    pod(deaths={said["checkpoint"]: [[said["saved"], said["began"]]] * 3})
    _, report = applied()
    assert report.strategy == "weights_only", "told by the next pod's loader, and not found anew by its process"
    assert report.resume["passed"][0]["why"].startswith("poisoned: 3 processes died on it")


def test_without_any_place_for_a_mark_the_log_says_so(
    pod: Start, output: Path, tmp_path: Path, read_only: None, caplog: pytest.LogCaptureFixture
) -> None:
    save_run(output, 1)
    pod()
    _, report = applied()
    assert report.state["epoch"] == 1
    assert f"{output}/exp-7: Read-only file system; " in caplog.text
    assert f"{tmp_path}/termination-log: No such file or directory; so nobody will know" in caplog.text
    assert not (output / "exp-7" / STARTS).exists()


def test_a_process_that_decides_again_knows_of_the_deaths_that_its_loader_was_told_of(pod: Start, output: Path) -> None:
    saved = max(file.stat().st_mtime for file in save_run(output, 2)[-1].iterdir())
    pod(deaths={name(2): [[saved, saved + 1]] * 3})
    pod(again=True)
    _, report = applied()
    assert report.resume["checkpoint"] == name(1)
    assert report.resume["passed"][0]["checkpoint"] == name(2)


def test_frozen_layers_are_frozen_again(pod: Start, output: Path) -> None:
    save_run(output, 1)
    pod({"freezing": {"layers": ["0"]}}, strategy="weightsOnly")
    model, report = applied()
    assert (report.strategy, report.frozen) == ("weights_only", 2)
    assert not model[0].weight.requires_grad


def test_it_goes_on_as_if_nothing_had_happened(pod: Start, output: Path) -> None:
    whole, optimizer = training()
    for _ in range(5):
        step(whole, optimizer)
    save_run(output, 3)
    pod()
    model, optimizer = training(9)
    preheat.apply(model, optimizer=optimizer)
    for _ in range(2):
        step(model, optimizer)
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_run_that_began_without_its_checkpoint_goes_on_from_its_own(
    pod: Start, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `onFailure: Continue` asks for where the pretrained one cannot be had; what is saved since is not lost."""
    monkeypatch.setenv("PREHEAT_ON_FAILURE", "Continue")
    stages = [{"local": {"path": str(tmp_path / "gone.safetensors")}}, {"weightsOnly": {}}]
    told = environment(stages, tmp_path / "volume", resume=resume(output), onFailure="Continue")
    assert isinstance(load_or_go_on(Settings.read(told)), Absence)
    pod(again=True)
    assert applied()[1].strategy == "none"
    save_run(output, 2)
    pod(again=True)
    assert applied()[1].state["epoch"] == 2


def test_ranks_begin_from_what_the_first_one_decides(pod: Start, output: Path) -> None:
    save_run(output, 2)
    pod()
    store = HashStore()
    begun = []
    for rank in (0, 1):
        starting._begun.clear()
        begun.append(starting.beginning(Ranks(store, rank, 2, 20.0)))
        save_run(output, 3)  # which the second one would take
    assert [each.source.select for each in begun] == [name(2), name(2)]  # type: ignore[union-attr]
    ids = {start.id for start in Starts(output / "exp-7").read()}
    assert len(ids) == 1
    assert len(marks(output)) == 2
