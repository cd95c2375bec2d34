"""`preheat.apply(model, pipeline=...)`: from the source straight into the model, without a bundle."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file
from sources.fault_server import FaultServer
from torch.distributed import HashStore

import preheat
from preheat.context import CheckpointContext
from preheat.errors import (
    CheckpointConfigError,
    CheckpointError,
    CheckpointIncompatibleError,
    CheckpointNotFoundError,
    NothingMatchedError,
)
from preheat.pipeline import CheckpointPipeline
from preheat.ranks import Ranks
from preheat.shim import first_step, guard


@pytest.fixture(autouse=True)
def outside(monkeypatch, tmp_path):
    monkeypatch.delenv("PREHEAT_BUNDLE", raising=False)
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))


@pytest.fixture
def saved(tmp_path):
    wanted = torch.nn.Linear(3, 2)
    torch.save({"state_dict": wanted.state_dict(), "epoch": 4}, tmp_path / "model.ckpt")
    return wanted


def stages(path):
    return [{"local": {"path": str(path)}}, {"weightsOnly": {}}, {"freezing": {"layers": ["bias"]}}]


def written(tmp_path, document):
    (tmp_path / "pipeline.yaml").write_text(json.dumps(document))
    return tmp_path / "pipeline.yaml"


RESOURCE = {"apiVersion": "preheat.dev/v1alpha1", "kind": "CheckpointPipeline", "metadata": {"name": "finetune"}}


@pytest.mark.parametrize("spelling", ["list", "mapping", "object", "file", "resource"])
def test_every_spelling_of_a_pipeline_fills_the_model(spelling, saved, tmp_path):
    listed = stages(tmp_path / "model.ckpt")
    of_a_pod = {"stages": listed, "serviceAccountName": "trainer", "refreshSeconds": 300, "onFailure": "Continue"}
    pipeline = {
        "list": lambda: listed,
        "mapping": lambda: {"stages": listed},
        "object": lambda: CheckpointPipeline(listed),
        "file": lambda: str(written(tmp_path, {"stages": listed})),
        "resource": lambda: written(tmp_path, {**RESOURCE, "spec": of_a_pod}),
    }[spelling]()
    model = torch.nn.Linear(3, 2)
    report = preheat.apply(model, pipeline=pipeline)
    assert torch.equal(model.weight, saved.weight)
    assert not model.bias.requires_grad
    assert report.source.endswith("model.ckpt")
    assert report.version
    assert json.loads((tmp_path / "report.json").read_text())["totals"]["loaded"] == 2
    assert preheat.apply(model, pipeline=pipeline) is report


def test_a_remote_source_needs_no_disk(saved, tmp_path):
    with FaultServer().running() as server:
        server.serve("/model.ckpt", (tmp_path / "model.ckpt").read_bytes())
        model = torch.nn.Linear(3, 2)
        preheat.apply(model, pipeline=[{"http": {"url": server.origin + "/model.ckpt"}}, {"weightsOnly": {}}])
    assert torch.equal(model.weight, saved.weight)


def test_what_a_training_reports_and_logs_shows_no_credential(saved, tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setenv("PREHEAT_HTTP_TOKEN", "canary-token")
    model = torch.nn.Linear(3, 2)
    with FaultServer().running() as server, caplog.at_level(logging.DEBUG):
        url = server.serve("/model.ckpt", (tmp_path / "model.ckpt").read_bytes()) + "?X-Amz-Signature=canary-signature"
        preheat.apply(model, pipeline=[{"http": {"url": url}}, {"weightsOnly": {}}])
        assert server.requests[0].headers["Authorization"] == "Bearer canary-token"
    printed = capsys.readouterr()
    assert "/model.ckpt" in (report := (tmp_path / "report.json").read_text())
    assert "canary" not in report + caplog.text + printed.out + printed.err


def test_a_warm_start_restores_what_it_is_given(tmp_path):
    def training():
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.named_parameters(), lr=0.1)

    model, optimizer = training()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 1}, tmp_path / "model.ckpt")
    fresh, other = training()
    report = preheat.apply(fresh, other, pipeline=[stages(tmp_path / "model.ckpt")[0], {"warmStart": {}}])
    assert report.state["step"] == 1
    assert torch.equal(other.state[fresh.weight]["exp_avg"], optimizer.state[model.weight]["exp_avg"])


@pytest.mark.parametrize(
    ("content", "kind"), [({"other": torch.ones(1)}, NothingMatchedError), (None, CheckpointNotFoundError)]
)
def test_what_goes_wrong_is_raised_whatever_a_pod_would_do(content, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("PREHEAT_ON_FAILURE", "Continue")
    if content:
        save_file(content, tmp_path / "model.ckpt")
    model = torch.nn.Linear(3, 2)
    before = model.weight.clone()
    with pytest.raises(kind):
        preheat.apply(model, pipeline=stages(tmp_path / "model.ckpt"))
    assert torch.equal(model.weight, before)


def test_what_is_no_pipeline_is_refused_by_name(tmp_path):
    for wrong in (3, str(tmp_path / "nothing.yaml"), [{"weightsOnly": {}}], {"stagez": []}):
        with pytest.raises(CheckpointConfigError):
            preheat.apply(torch.nn.Linear(3, 2), pipeline=wrong)


def test_the_guard_lets_go(saved, tmp_path):
    guard.install()
    try:
        model = torch.nn.Linear(3, 2)
        preheat.apply(model, pipeline=stages(tmp_path / "model.ckpt"))
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    finally:
        first_step.release()


def test_ranks_that_open_different_files_stop_before_a_model_is_touched(tmp_path):
    store, models = HashStore(), [torch.nn.Linear(3, 2) for _ in range(2)]
    before = [model.weight.clone() for model in models]

    def play(rank):
        torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / f"{rank}.ckpt")
        context = CheckpointContext(model=models[rank], ranks=Ranks(store, rank, 2, 20.0))
        CheckpointPipeline(stages(tmp_path / f"{rank}.ckpt")).execute_sync(context)

    with ThreadPoolExecutor(2) as threads:
        found = [done.exception() for done in [threads.submit(play, rank) for rank in range(2)]]
    assert [type(error) for error in found] == [CheckpointIncompatibleError] * 2
    assert all("the ranks differ in the checkpoint" in str(error) for error in found)
    assert all(torch.equal(model.weight, old) for model, old in zip(models, before, strict=True))
    assert not any(isinstance(error, CheckpointError) and error.touched for error in found)
