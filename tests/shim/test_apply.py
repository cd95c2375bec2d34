"""`preheat.apply` in this process: what it asks for, what it returns, and what it says."""

import json
import logging
import pickle
import sys

import pytest
import torch
from shim.bundles import WEIGHTS_ONLY, write_bundle

import preheat
from preheat.bundle.store import Store
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, NotABundleError, NothingMatchedError, NoWeightsError
from preheat.prepare import prepare
from preheat.shim import first_step, guard, lightning
from preheat.shim.lightning import ApplyCheckpoint, applying_callback
from preheat.shim.reports.report import Report, rank, report_path
from preheat.spec import parse
from preheat.stage import PipelineStage


class Doubling(PipelineStage):
    """A modifier of the user's own, found by its dotted path."""

    def __init__(self, factor=2):
        self.factor = factor

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        with torch.no_grad():
            context.model.bias.mul_(self.factor)
        context.metadata.setdefault("modifiers_applied", []).append({"type": "doubling", "factor": self.factor})
        return context


class Copying(PipelineStage):
    """A loader of the user's own."""

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        context.model.load_state_dict(context.checkpoint_data["state_dict"])
        return context


@pytest.fixture
def wanted():
    return torch.nn.Linear(3, 2).state_dict()


@pytest.fixture
def in_bundle(tmp_path, monkeypatch):
    def given(tensors, stages=(WEIGHTS_ONLY,), **facts):
        monkeypatch.setenv("PREHEAT_BUNDLE", str(write_bundle(tmp_path / "bundle", tensors, stages, **facts)))

    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(variable, raising=False)
    return given


def test_the_remaining_stages_run_and_are_reported(in_bundle, wanted, capsys, tmp_path):
    in_bundle(wanted | {"old": torch.ones(1)}, [{"transferLearning": {}}, {"freezing": {"layers": ["weight"]}}])
    model = torch.nn.Linear(3, 2, dtype=torch.float64)
    report = preheat.apply(model)
    assert torch.equal(model.weight, wanted["weight"].double())
    assert not model.weight.requires_grad
    assert report.loaded == ("weight", "bias")
    assert report.skipped == {"old": "not in the model"}
    assert report.frozen == 1
    person, machine = capsys.readouterr().err.splitlines()
    assert person.startswith("Preheat: loaded 2 of 2 tensors (32 B, ")
    assert "from s3://models/pretrained.ckpt version etag:abc; skipped 1 (old: not in the model)" in person
    assert person.endswith("cast 2 F32 -> F64; frozen 1 tensor (weight)")
    said = json.loads(machine.removeprefix("preheat.report "))
    counts = {
        "loaded": 2,
        "skipped": 1,
        "leftInitial": 0,
        "cast": 2,
        "resized": 0,
        "added": 0,
        "frozen": 1,
        "partial": 0,
    }
    assert said["totals"] == {**counts, "bytes": 32, "bytesRead": report.read}
    assert 32 < report.read < 4096
    assert said.keys().isdisjoint({"loaded", "added", "tensors", "skippedTensors"})
    assert said["pipeline"] == "finetune"
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["loaded"] == ["weight", "bias"]
    assert written["casts"] == {"weight": "F32 -> F64", "bias": "F32 -> F64"}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle", "report.json"]


def test_a_bundle_that_the_loader_made_from_a_torch_file_fills_the_model(tmp_path, monkeypatch):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm, self.head = torch.nn.Embedding(5, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 5)
            self.head.weight = self.embed.weight

    trained, model = Tied(), Tied()
    torch.save({"state_dict": trained.state_dict(), "epoch": 2}, tmp_path / "trained.ckpt")
    stages = [{"local": {"path": str(tmp_path / "trained.ckpt")}}, WEIGHTS_ONLY, {"freezing": {"layers": ["norm"]}}]
    made = prepare(parse({"stages": stages}), Store(tmp_path / "volume"), "test")
    monkeypatch.setenv("PREHEAT_BUNDLE", str(made.folder))
    report = preheat.apply(model)
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())
    assert report.loaded == tuple(model.state_dict())
    assert report.frozen == 2
    assert report.version == made.manifest.source.version


def test_tensors_left_at_their_initial_value_are_named(in_bundle, wanted):
    in_bundle({"weight": wanted["weight"]}, [{"transferLearning": {}}])
    assert "left at initial value: bias" in preheat.apply(torch.nn.Linear(3, 2)).line()


def test_a_second_call_for_a_model_changes_nothing(in_bundle, wanted, capsys):
    in_bundle(wanted)
    model = torch.nn.Linear(3, 2)
    first = preheat.apply(model)
    with torch.no_grad():
        model.weight.zero_()
    capsys.readouterr()
    assert preheat.apply(model) is first
    assert not model.weight.any()
    assert capsys.readouterr().err == ""


def test_every_model_that_is_given_is_filled(in_bundle, wanted):
    in_bundle(wanted)
    models = [torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)]
    assert len({id(preheat.apply(model)) for model in models}) == 2
    assert all(torch.equal(model.weight, wanted["weight"]) for model in models)


def test_a_stage_of_the_users_own_runs_in_the_training_process(in_bundle, wanted):
    custom = {"custom": {"target": f"{__name__}.Doubling", "params": {"factor": 3}}}
    in_bundle(wanted, [WEIGHTS_ONLY, custom])
    sys.modules[__name__].Doubling = Doubling
    model = torch.nn.Linear(3, 2)
    report = preheat.apply(model)
    assert torch.equal(model.bias, wanted["bias"] * 3)
    assert report.modifiers == ({"type": "doubling", "factor": 3},)
    assert report.line().endswith("doubling")


def test_a_users_own_loader_is_said_to_have_loaded(in_bundle, wanted):
    sys.modules[__name__].Copying = Copying
    in_bundle(wanted, [{"custom": {"target": f"{__name__}.Copying"}}])
    model = torch.nn.Linear(3, 2)
    line = preheat.apply(model).line()
    assert line.startswith("Preheat: weights loaded by a stage of the pipeline's own (custom) from s3://")
    assert torch.equal(model.weight, wanted["weight"])


@pytest.mark.parametrize("environment", [{}, {"PREHEAT_SHIM": "auto"}, {"PREHEAT_BUNDLE": "/b"},
                                         {"PREHEAT_SHIM": "manual", "PREHEAT_BUNDLE": "/b"}])  # fmt: skip
def test_lightning_gets_no_callback_unless_there_is_a_bundle_to_apply_automatically(monkeypatch, environment):
    monkeypatch.delenv("PREHEAT_BUNDLE", raising=False)
    monkeypatch.delenv("PREHEAT_SHIM", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert lightning.callbacks() == []


def test_the_callback_can_be_sent_to_a_spawned_process():
    from lightning.pytorch import Callback

    copy = pickle.loads(pickle.dumps(applying_callback()))
    assert isinstance(copy, Callback)
    assert isinstance(copy, ApplyCheckpoint)


def test_the_pipelines_word_on_errors_holds_in_the_training_process(in_bundle, wanted):
    stages = [WEIGHTS_ONLY, {"freezing": {"layers": ["nothing.here"]}}]
    in_bundle(wanted, stages, continue_on_error=True)
    model = torch.nn.Linear(3, 2)
    report = preheat.apply(model)
    assert torch.equal(model.weight, wanted["weight"])
    assert "FreezingModifier failed" in report.line()
    in_bundle(wanted, stages)
    with pytest.raises(NothingMatchedError, match=r"nothing\.here"):
        preheat.apply(torch.nn.Linear(3, 2))


def test_without_a_bundle_it_says_what_to_do(monkeypatch):
    monkeypatch.delenv("PREHEAT_BUNDLE", raising=False)
    with pytest.raises(CheckpointConfigError, match=r"Label the pod `preheat.dev/pipeline: NAME`; .*preheat run"):
        preheat.apply(torch.nn.Linear(1, 1))


def test_a_folder_that_is_no_bundle_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PREHEAT_BUNDLE", str(tmp_path))
    with pytest.raises(NotABundleError, match="not a complete bundle"):
        preheat.apply(torch.nn.Linear(1, 1))


def test_what_is_no_model_is_refused(in_bundle, wanted):
    in_bundle(wanted)
    with pytest.raises(CheckpointConfigError, match=r"needs a torch.nn.Module, not dict"):
        preheat.apply({})


def test_a_bundle_whose_pipeline_loads_nothing_is_refused(in_bundle, wanted):
    in_bundle(wanted, [])
    with pytest.raises(NoWeightsError, match="Add a strategy"):
        preheat.apply(torch.nn.Linear(3, 2))


def test_a_failure_is_not_remembered_as_applied(in_bundle, wanted):
    in_bundle({"other": torch.ones(1)})
    model = torch.nn.Linear(3, 2)
    with pytest.raises(NothingMatchedError):
        preheat.apply(model)
    in_bundle(wanted)
    assert preheat.apply(model).loaded == ("weight", "bias")


async def test_it_works_inside_a_running_event_loop(in_bundle, wanted):
    in_bundle(wanted)
    model = torch.nn.Linear(3, 2)
    preheat.apply(model)
    assert torch.equal(model.weight, wanted["weight"])


def test_the_guard_refuses_steps_until_a_checkpoint_is_applied(in_bundle, wanted):
    in_bundle(wanted)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters())
    hooks = sys.modules["torch.optim.optimizer"]._global_optimizer_pre_hooks
    before = dict(hooks)
    guard.install()
    guard.install()
    try:
        with pytest.raises(NoWeightsError, match="checkpoint of pipeline 'finetune' was not applied"):
            optimizer.step()
        preheat.apply(model)
        optimizer.step()
        assert dict(hooks) == before
    finally:
        first_step.release()


def test_a_configured_log_gets_the_line_and_stderr_does_not(in_bundle, wanted, caplog, capsys):
    in_bundle(wanted)
    with caplog.at_level(logging.INFO, "preheat"):
        preheat.apply(torch.nn.Linear(3, 2))
    assert [record.message[:15] for record in caplog.records] == ["Preheat: loaded"]
    assert [line[:14] for line in capsys.readouterr().err.splitlines()] == ["preheat.report"]


def test_a_report_that_cannot_be_written_stops_nothing(in_bundle, wanted, monkeypatch):
    in_bundle(wanted)
    monkeypatch.setenv("PREHEAT_REPORT", "/proc/no/such/report.json")
    assert preheat.apply(torch.nn.Linear(3, 2)).loaded


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, 0), ({"RANK": "3", "LOCAL_RANK": "1"}, 3), ({"LOCAL_RANK": "2"}, 2), ({"SLURM_PROCID": "5"}, 5),
     ({"RANK": "-1", "SLURM_PROCID": "x"}, 0)],
)  # fmt: skip
def test_the_rank_is_the_launchers(monkeypatch, environment, expected):
    for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert rank() == expected


def test_ranks_do_not_share_a_report_file(monkeypatch, tmp_path):
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    assert [report_path(0).name, report_path(3).name] == ["report.json", "report-rank3.json"]
    monkeypatch.delenv("PREHEAT_REPORT")
    assert report_path(3).name == "preheat-report-rank3.json"


def test_the_line_in_the_log_is_bounded_whatever_the_checkpoint():
    names = tuple(f"{'a' * 40}.{i}" for i in range(9000))
    report = Report("p", "s3://b/k", "v", "weights_only", names, dict.fromkeys(names, "not in the model"),
                    dict.fromkeys(names, "not in the checkpoint"),
                    dict.fromkeys(names, "F32 -> BF16"), (), 1, {"open": 0.1, "load": 0.1, "total": 0.2})  # fmt: skip
    assert len(json.dumps(report.to_mapping(20))) < 8000
    assert len(report.line()) < 1000
