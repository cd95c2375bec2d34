"""The loader of a pod whose pipeline resumes a run: which checkpoint it takes, and what it says of the others."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from loader.loader_process import environment, load
from resume.runs import POD, damage, loaded, resume, save_run, step, training
from safetensors.torch import load_file, save_file
from sources import s3_server

import preheat
from preheat.bundle.data import open_bundle
from preheat.errors import AccessDeniedError, CheckpointConfigError, CheckpointNotFoundError, CheckpointSourceError
from preheat.loader import Settings
from preheat.resume.resumption import Resumption
from preheat.resume.starts import Starts, on_volume
from preheat.source_check import check
from preheat.sources.local import LocalSource
from preheat.termination_message import leave_message

WEIGHTS_ONLY = {"weightsOnly": {}}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a training that saved three times."""
    root = tmp_path_factory.mktemp("three")
    save_run(root)
    return root


@pytest.fixture
def output(three: Path, tmp_path: Path) -> Path:
    shutil.copytree(three, tmp_path / "output", symlinks=True)
    return tmp_path / "output"


@pytest.fixture
def stages(tmp_path: Path) -> list[dict[str, Any]]:
    save_file(training(5)[0].state_dict(), tmp_path / "pretrained.safetensors")
    return [{"local": {"path": str(tmp_path / "pretrained.safetensors")}}, WEIGHTS_ONLY]


class Pod:
    """A pod with the loader in this process."""

    def __init__(self, stages: list[dict[str, Any]], volume: Path, chain: dict[str, Any], **settings: Any) -> None:
        self.environment = environment(stages, volume, resume=chain, **settings)
        self.folder = volume / "pods" / POD

    def load(self) -> dict[str, Any]:
        """Run the loader; what it says of the run in its message."""
        self.message = loaded(self.environment).to_json()
        said: dict[str, Any] = self.message["resume"]
        return said

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"


@pytest.fixture
def pod(stages: list[dict[str, Any]], tmp_path: Path, output: Path) -> Pod:
    return Pod(stages, tmp_path / "volume", resume(output))


def folder(output: Path, epoch: int) -> Path:
    [found] = (output / "exp-7" / "checkpoints").glob(f"*_cp=E{epoch}_*")
    return found.parent if found.is_file() else found


def name(epoch: int) -> str:
    return f"model_cp=E{epoch}_U{epoch}"


def test_the_newest_is_verified_and_used_where_it_is(pod: Pod, output: Path) -> None:
    said = pod.load()
    assert said == {"run": str(output / "exp-7"), "strategy": "warmStart", "checkpoint": name(3), "passed": []}
    assert Path(os.readlink(pod.bundle)) == folder(output, 3)
    assert (pod.message["outcome"], pod.message["source"]["format"]) == ("reused", "safetensors")
    assert pod.message["source"]["uri"].rstrip("/") == str(folder(output, 3))
    told = Resumption.read(pod.folder)
    assert told
    assert (told.taken and told.taken.name, told.taken and told.taken.in_place) == (name(3), True)
    assert told.stages == ({"warmStart": {}},)


def test_the_stages_run_while_the_run_has_not_begun_and_no_longer_when_it_has(
    stages: list[dict[str, Any]], tmp_path: Path, three: Path
) -> None:
    pod = Pod(stages, tmp_path / "volume", resume(tmp_path / "output"))
    assert pod.load()["checkpoint"] is None
    assert pod.message["source"]["uri"] == stages[0]["local"]["path"]
    assert open_bundle(pod.bundle).manifest.stages == (WEIGHTS_ONLY,)  # type: ignore[union-attr]
    told = Resumption.read(pod.folder)
    assert told
    assert told.line() == f"begins as the stages say: there is nothing in {tmp_path}/output/exp-7/ yet"
    shutil.copytree(three, tmp_path / "output")
    assert pod.load()["checkpoint"] == name(3), "the same pod, in which the loader runs again"


def test_one_that_is_not_complete_is_never_taken(pod: Pod, output: Path) -> None:
    (folder(output, 3) / "manifest.json").unlink()
    said = pod.load()
    assert said["checkpoint"] == name(2)
    [passed] = said["passed"]
    assert passed["checkpoint"] == name(3)
    assert "incomplete" in passed["why"]


@pytest.mark.parametrize(
    ("file", "why"), [("model.safetensors", "Corrupt"), ("state.safetensors", "Corrupt"), ("state.json", "")]
)
def test_one_that_is_damaged_is_passed_over(pod: Pod, output: Path, file: str, why: str) -> None:
    damage(folder(output, 3) / file)
    said = pod.load()
    assert said["checkpoint"] == name(2)
    assert said["passed"][0]["why"].startswith(why)


def test_one_that_was_cut_is_passed_over(pod: Pod, output: Path) -> None:
    weights = folder(output, 3) / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)
    assert pod.load()["passed"][0]["why"].startswith("Truncated: ")


def test_a_poisoned_one_is_passed_over_until_one_beyond_it_is_saved(pod: Pod, output: Path) -> None:
    for number in range(3):
        Starts(output / "exp-7").begin(name(3), str(number), 0)
    said = pod.load()
    assert said["checkpoint"] == name(2)
    assert "poisoned: 3 processes died on it" in said["passed"][0]["why"]
    model, optimizer = training()
    step(model, optimizer)
    preheat.save(output, model, optimizer, epoch=4, update=4, run_id="exp-7")
    damage(folder(output, 4) / "model.safetensors")
    assert pod.load()["checkpoint"] == name(3)


def test_deaths_that_the_operator_tells_of_count_like_marks(
    stages: list[dict[str, Any]], tmp_path: Path, output: Path
) -> None:
    run, saved = str(output / "exp-7"), max(file.stat().st_mtime for file in folder(output, 3).iterdir())

    def said(known: dict[str, Any], forgotten: float = 0.0) -> dict[str, Any]:
        told = json.dumps({"runs": known, "forgotten": forgotten})
        return Pod(stages, tmp_path / "volume", resume(output), PREHEAT_DEATHS=told).load()

    died = {name(3): [[saved, saved + 1], [saved, saved + 2]]}
    assert said({run: died})["checkpoint"] == name(3), "two are less than maxFailures"
    Starts(output / "exp-7").begin(name(3), "mark", 0)
    assert said({run: died})["checkpoint"] == name(2)
    assert said({run: died})["passed"][0]["why"].startswith("poisoned: 3 processes died on it")
    assert said({"/another/exp-7": died})["checkpoint"] == name(3), "of another run"
    anew = {name(3): [[saved - 60, saved - 50], [saved - 60, saved - 40]]}
    assert said({run: anew})["checkpoint"] == name(3), "it was saved anew since"
    assert said({run: died}, forgotten=saved + 1)["checkpoint"] == name(3), "some were forgotten"
    died = {name(3): [[saved, saved - 100 + each] for each in range(3)]}
    assert said({run: died})["checkpoint"] == name(2), "the clock of their node is behind"


def test_deaths_that_cannot_be_read_are_an_error_of_the_installation(
    stages: list[dict[str, Any]], tmp_path: Path, output: Path
) -> None:
    with pytest.raises(CheckpointConfigError, match="PREHEAT_DEATHS cannot be read"):
        Pod(stages, tmp_path / "volume", resume(output), PREHEAT_DEATHS="[]").load()


def test_without_a_cluster_the_marks_of_a_run_in_a_bucket_are_on_the_volume(pod: Pod, output: Path) -> None:
    """As `preheat exec` has it; here the run is one that no longer is where its marks could be."""
    known = Settings.read(pod.environment).spec.resume
    assert known
    marks = on_volume(pod.folder.parent.parent, known)
    for number in range(3):
        marks.begin(name(3), str(number), 0)
    assert pod.load()["checkpoint"] == name(2)
    model, optimizer = training()
    step(model, optimizer)
    preheat.save(output, model, optimizer, epoch=4, update=4, run_id="exp-7")
    assert pod.load()["checkpoint"] == name(4)
    assert not list(marks.read()), "they say nothing any more"


def test_a_warm_start_never_takes_weights_alone_and_weights_only_takes_nothing_else(
    stages: list[dict[str, Any]], tmp_path: Path, output: Path
) -> None:
    preheat.save(output, training()[0], epoch=4, update=4, run_id="exp-7")
    said = Pod(stages, tmp_path / "volume", resume(output)).load()
    assert said["checkpoint"] == name(3)
    assert "no training can go on from it" in said["passed"][0]["why"]
    weights = Pod(stages, tmp_path / "volume", resume(output, strategy="weightsOnly"))
    assert weights.load()["checkpoint"] == name(4)
    told = Resumption.read(weights.folder)
    assert told
    assert told.stages == (WEIGHTS_ONLY,)


def test_values_that_are_not_finite_are_passed_over_where_the_stages_verify_that(
    stages: list[dict[str, Any]], tmp_path: Path, output: Path
) -> None:
    model, optimizer = training()
    step(model, optimizer)
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    preheat.save(output, model, optimizer, epoch=4, update=4, run_id="exp-7")
    assert Pod(stages, tmp_path / "volume", resume(output)).load()["checkpoint"] == name(4)
    said = Pod([stages[0], {"verify": {}}, stages[1]], tmp_path / "volume", resume(output)).load()
    assert said["checkpoint"] == name(3)
    assert "NaN or infinity" in said["passed"][0]["why"]


def test_a_checkpoint_of_another_layout_becomes_a_bundle_with_its_training_state(
    stages: list[dict[str, Any]], tmp_path: Path
) -> None:
    model, optimizer = training()
    step(model, optimizer)
    run = tmp_path / "run"
    run.mkdir()
    state = {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()], "global_step": 1}
    torch.save({**state, "pytorch-lightning_version": "2.5.0", "epoch": 0}, run / "epoch=0-step=1.ckpt")
    pod = Pod(stages, tmp_path / "volume", {"from": {"local": {"path": str(run)}}})
    assert pod.load()["checkpoint"]
    data = open_bundle(pod.bundle)
    assert data.manifest
    assert (data.manifest.stages, (pod.bundle / "state.json").exists()) == (({"warmStart": {}},), True)
    saved = load_file(pod.bundle / "model.safetensors")
    assert all(torch.equal(saved[key], value) for key, value in model.state_dict().items())
    data.close()


def test_modifiers_run_again_unless_their_work_is_in_the_checkpoint(
    stages: list[dict[str, Any]], tmp_path: Path, output: Path
) -> None:
    more = [{"reset": {"layers": ["1"]}}, {"freezing": {"layers": ["0"]}}]
    pod = Pod([*stages, *more], tmp_path / "volume", resume(output))
    pod.load()
    told = Resumption.read(pod.folder)
    assert told
    assert told.stages == ({"warmStart": {}}, {"freezing": {"layers": ["0"]}})
    assert "not done again: reset" in told.line()


def test_when_all_are_damaged_the_stages_run_and_everything_is_told(pod: Pod, output: Path) -> None:
    for epoch in (1, 2, 3):
        damage(folder(output, epoch) / "model.safetensors")
    said = pod.load()
    assert said["checkpoint"] is None
    assert [each["checkpoint"] for each in said["passed"]] == [name(3), name(2), name(1)]


@pytest.mark.parametrize("error", [AccessDeniedError("you may not"), CheckpointSourceError("no answer")])
def test_a_run_that_cannot_be_looked_at_is_no_reason_to_begin_anew(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, error: CheckpointSourceError
) -> None:
    def refuse(place: LocalSource, patience: object) -> None:
        raise error

    monkeypatch.setattr(LocalSource, "tree", refuse)
    with pytest.raises(type(error)) as raised:
        pod.load()
    assert not raised.value.continuable, "onFailure: Continue would lose what the run has"


def test_the_loaders_process_says_it_in_its_log_and_in_its_message(
    stages: list[dict[str, Any]], tmp_path: Path, output: Path
) -> None:
    damage(folder(output, 3) / "model.safetensors")
    ended = load(stages, tmp_path / "volume", resume=resume(output))
    assert ended.code == 0, ended.log
    assert f"resumes from {name(2)} in {output}/exp-7 (warmStart); passed over {name(3)}: Corrupt: " in ended.log
    assert "checked where it is: CRC-32 of" in ended.log
    assert ended.message["resume"]["checkpoint"] == name(2)


def test_a_message_with_many_reasons_is_cut_to_what_kubernetes_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREHEAT_TERMINATION_LOG", str(tmp_path / "message"))
    passed = [{"checkpoint": "c" * 250, "why": "w" * 240}] * 12
    leave_message({"outcome": "reused", "resume": {"run": "r" * 2000, "passed": passed, "morePassed": 2}})
    text = (tmp_path / "message").read_text()
    told = json.loads(text)["resume"]
    assert len(text) <= 4096
    assert len(told["passed"]) + told["morePassed"] == 14


@pytest.mark.skipif(s3_server.executable() is None, reason="versitygw is not built: `make cluster-up` builds it")
def test_a_run_in_a_bucket_becomes_a_bundle_and_the_check_says_what_a_pod_would_take(
    stages: list[dict[str, Any]], tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET_KEY)
    damage(folder(output, 3) / "state.safetensors")
    (tmp_path / "server").mkdir()
    with s3_server.running(tmp_path / "server") as endpoint:
        client = s3_server.client(endpoint)
        client.create_bucket(Bucket="runs")
        place = {"bucket": "runs", "endpoint": endpoint, "region": "us-east-1", "addressing": "path"}
        chain = {"from": {"run": {"root": {"s3": {**place, "key": "runs/"}}, "runId": "exp-7"}}}
        pod = Pod(stages, tmp_path / "volume", chain)
        assert check(Settings.read(pod.environment)).to_json()["resume"]["checkpoint"] is None
        for file in output.rglob("*.*"):
            if file.is_file():
                client.upload_file(str(file), "runs", f"runs/{file.relative_to(output)}")
        assert check(Settings.read(pod.environment)).to_json()["resume"]["checkpoint"] == name(3)
        said = pod.load()
        assert (said["run"].rstrip("/"), said["checkpoint"]) == ("s3://runs/runs/exp-7", name(2))
        assert "Corrupt" in said["passed"][0]["why"]
        data = open_bundle(pod.bundle)
        assert data.manifest
        assert data.manifest.stages == ({"warmStart": {}},)
        assert (pod.bundle / "state.json").exists()
        data.close()
        gone = {"from": {"s3": {**place, "bucket": "gone", "key": "runs/exp-7/"}}}
        with pytest.raises(CheckpointNotFoundError):
            Pod(stages, tmp_path / "other", gone).load()
