"""Runs as the four systems and others leave them, opened and loaded."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from legacy import lightning_files, noether_files
from legacy.noether_files import RUN, position
from safetensors.torch import save_file

from preheat import CheckpointContext, CheckpointPipeline
from preheat.blob import Patience
from preheat.bundle.data import open_bundle
from preheat.bundle.store import Store
from preheat.errors import (
    CheckpointConfigError,
    CheckpointError,
    CheckpointIncompatibleError,
    CheckpointLoadError,
    CheckpointNotFoundError,
    NothingMatchedError,
    SourceChangedError,
    TruncatedError,
)
from preheat.formats import read_index
from preheat.prepare import Pin, prepare
from preheat.sources.fallback import FallbackSource
from preheat.sources.local import LocalSource
from preheat.sources.run import RunSource
from preheat.sources.s3 import S3Source
from preheat.spec import parse
from preheat.spelling import build, spell
from preheat.verbs.forecast import plan_pipeline

EVERY = ("encoder", "decoder")


def model(seed: int = 0) -> torch.nn.Linear:
    torch.manual_seed(seed)
    return torch.nn.Linear(3, 2)


def run_of(root: Path, **more: Any) -> dict[str, Any]:
    return {"run": {"root": {"local": {"path": str(root)}}, **more}}


def load(stages: list[dict[str, Any]], into: torch.nn.Module, **objects: Any) -> CheckpointContext:
    return CheckpointPipeline(stages).execute_sync(CheckpointContext(model=into, **objects))


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def opened(source: RunSource) -> str:
    blob = source.open(Patience())
    blob.close()
    return blob.uri


@pytest.fixture
def noether(tmp_path: Path) -> Path:
    """A run of Noether's with a stage: three epochs, the best of them, averages under both orders of names."""
    folder = tmp_path / "out" / RUN / "pretrain" / "checkpoints"
    for epoch in (1, 2, 3):
        noether_files.save_all(folder, "m", position(epoch), model(epoch))
    noether_files.save_weights(folder, "m", "latest", model(4).state_dict())
    noether_files.save_trainer(folder, "m", "latest")
    noether_files.save_weights(folder, "m", "best_model.loss.test", model(5).state_dict())
    noether_files.save_weights(folder, "m", position(1), model(7).state_dict(), "ema=0.9999", old=True)
    noether_files.save_weights(folder, "m", "latest", model(6).state_dict(), "ema=0.9999")
    for file in folder.glob("*latest*"):  # written last, by more than the step of the file system's clock
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime + 1))
    (tmp_path / "out" / RUN / "hp_resolved.yaml").write_text("{}")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("selected", "seed"),
    [
        ({}, 4),
        ({"select": "E2"}, 2),
        ({"select": "U10"}, 1),
        ({"select": "S120"}, 3),
        ({"select": position(2)}, 2),
        ({"select": "best.loss/test"}, 5),
        ({"select": "best_model.loss.test"}, 5),
        ({"info": "ema_factor=0.9999"}, 6),
        ({"select": "E1", "info": "ema=0.9999"}, 7),
    ],
    ids=str,
)
def test_noethers_weights_are_found_by_what_its_document_says(
    noether: Path, selected: dict[str, str], seed: int
) -> None:
    target, saved = model(99), model(seed)
    if seed <= 3:
        noether_files.trained(saved)  # as those with an optimizer were
    load([run_of(noether, runId=RUN, stage="pretrain", **selected), {"weightsOnly": {"strict": True}}], target)
    assert same(target, saved)


def test_noethers_training_goes_on_from_the_newest_that_has_its_optimizer(noether: Path) -> None:
    """`latest` has none by default, and upstream fails there."""
    target = model(99)
    optimizer = torch.optim.AdamW(target.parameters(), lr=1.0)
    context = load([run_of(noether, runId=RUN, stage="pretrain"), {"warmStart": {}}], target, optimizer=optimizer)
    saved = model(3)
    theirs = noether_files.trained(saved)
    assert same(target, saved)
    assert context.get_metadata("epoch") == 3
    assert context.get_metadata("global_step") == 30
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.01
    for mine, other in zip(optimizer.state.values(), theirs.state.values(), strict=True):
        assert torch.equal(mine["exp_avg"], other["exp_avg"])


def test_a_loader_makes_a_bundle_of_a_training(noether: Path, tmp_path: Path) -> None:
    spec = parse({"stages": [run_of(noether, runId=RUN, stage="pretrain"), {"warmStart": {}}]})
    bundle = prepare(spec, Store(tmp_path / "volume"), "a-pod")
    assert bundle.manifest.source.uri.endswith(f"/checkpoints/m_cp={position(3)}_model.th")
    state = open_bundle(bundle.folder).training_state()
    assert state is not None
    assert (state.tree["global_step"], state.tree["scaler"]) == (30, {"scale": 65536.0})


def test_from_one_without_optimizer_no_training_goes_on(noether: Path) -> None:
    for select in ("best.loss.test", "last"):
        with pytest.raises(CheckpointNotFoundError):
            load([run_of(noether, runId=RUN, stage="pretrain", select=select), {"warmStart": {}}], model())


def test_a_stage_has_to_be_named_where_there_are_several(noether: Path) -> None:
    folder = noether / RUN / "finetune" / "checkpoints"
    noether_files.save_weights(folder, "m", "latest", model().state_dict())
    with pytest.raises(CheckpointConfigError, match=r"2 folders: pretrain/checkpoints, finetune/checkpoints"):
        opened(RunSource(LocalSource(str(noether)), run_id=RUN))


def test_a_composite_model_is_loaded_as_one(tmp_path: Path) -> None:
    parts = {name: model(seed) for seed, name in enumerate(EVERY)}
    theirs = noether_files.save_composite(tmp_path, "upt", position(2), parts)
    target = torch.nn.ModuleDict({name: model(99) for name in EVERY})
    optimizers = [torch.optim.AdamW(target[name].parameters(), lr=1.0) for name in sorted(EVERY)]
    context = load([run_of(tmp_path), {"warmStart": {}}], target, optimizer=optimizers)
    assert all(same(target[name], parts[name]) for name in EVERY)
    assert context.get_metadata("epoch") == 2
    for optimizer, other in zip(optimizers, reversed(theirs), strict=True):
        assert torch.equal(next(iter(optimizer.state.values()))["exp_avg"], next(iter(other.state.values()))["exp_avg"])


def test_optimizers_of_a_composite_model_are_never_exchanged(tmp_path: Path) -> None:
    noether_files.save_composite(tmp_path, "upt", position(2), {name: model(seed) for seed, name in enumerate(EVERY)})
    target = torch.nn.ModuleDict({name: model(99) for name in EVERY})
    optimizers = [torch.optim.AdamW(target[name].parameters()) for name in EVERY]
    with pytest.raises(CheckpointIncompatibleError, match=r"decoder\."):
        load([run_of(tmp_path), {"warmStart": {}}], target, optimizer=optimizers)


def test_a_part_of_a_composite_model_is_a_model(tmp_path: Path) -> None:
    parts = {name: model(seed) for seed, name in enumerate(EVERY)}
    noether_files.save_composite(tmp_path, "upt", position(2), parts)
    target = model(99)
    load([run_of(tmp_path, model="upt.encoder"), {"weightsOnly": {"strict": True}}], target)
    assert same(target, parts["encoder"])


@pytest.mark.parametrize("layout", ["auto", "anemoi", "lightning"])
def test_anemois_run_goes_on_from_its_last(tmp_path: Path, layout: str) -> None:
    saved = model(1)
    lightning_files.save_training(tmp_path / "run-1" / "anemoi-by_epoch-epoch_002-step_000300.ckpt", model(2), step=300)
    lightning_files.save_training(tmp_path / "run-1" / "last.ckpt", saved)
    lightning_files.save_inference(tmp_path / "run-1" / "inference-last.ckpt", saved)
    target = model(99)
    optimizer = torch.optim.AdamW(target.parameters())
    stages = [run_of(tmp_path, runId="run-1", select="last", layout=layout), {"warmStart": {}}]
    context = load(stages, target, optimizer=optimizer)
    assert same(target, saved)
    assert context.get_metadata("global_step") == 400


def test_the_best_of_lightnings_is_what_its_callback_says(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        best = f"/elsewhere/epoch={min(step, 200) // 100}-step={min(step, 200)}.ckpt"
        lightning_files.save_training(tmp_path / f"epoch={step // 100}-step={step}.ckpt", model(step), best=best)
    root = LocalSource(str(tmp_path))
    assert opened(RunSource(root, select="best.val_loss")) == f"{tmp_path}/epoch=2-step=200.ckpt"
    assert opened(RunSource(root, select="best")) == f"{tmp_path}/epoch=2-step=200.ckpt"
    with pytest.raises(CheckpointLoadError, match=r"step=300\.ckpt names no checkpoint.*knows the best by val_loss"):
        opened(RunSource(root, select="best.accuracy"))


def test_a_fork_takes_the_weights_and_begins_anew(tmp_path: Path) -> None:
    lightning_files.save_training(tmp_path / "parent" / "last.ckpt", saved := model(1))
    target = model(99)
    context = load([run_of(tmp_path, runId="parent"), {"coldStart": {}}], target)
    assert same(target, saved)
    assert (context.get_metadata("epoch"), context.get_metadata("global_step")) == (0, 0)


def test_a_run_that_is_not_there_is_an_error_on_every_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anemoi warns on all ranks but the first, which then train from initial weights."""
    for rank in ("0", "1", "-1", "no number"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(CheckpointNotFoundError, match=r"run-9/ holds no checkpoint: there are no files"):
            load([run_of(tmp_path, runId="run-9"), {"weightsOnly": {}}], model())


def save_trainer(folder: Path, module: torch.nn.Module, step: int) -> None:
    """As Transformers' Trainer does."""
    folder.mkdir(parents=True)
    save_file(module.state_dict(), folder / "model.safetensors")
    torch.save(noether_files.trained(module).state_dict(), folder / "optimizer.pt")
    state = {"global_step": step, "best_model_checkpoint": "/elsewhere/checkpoint-500"}
    (folder / "trainer_state.json").write_text(json.dumps(state))


def test_a_run_of_transformers(tmp_path: Path) -> None:
    for step in (500, 1000):
        save_trainer(tmp_path / f"checkpoint-{step}", model(step), step)
    (tmp_path / "checkpoint-1500").mkdir()
    (tmp_path / "checkpoint-1500" / "model.safetensors").write_bytes(b"half")
    root = LocalSource(str(tmp_path))
    assert opened(RunSource(root)) == f"{tmp_path}/checkpoint-1000/"
    assert opened(RunSource(root, select="best")) == f"{tmp_path}/checkpoint-500/"
    assert opened(RunSource(root, select="U500")) == f"{tmp_path}/checkpoint-500/"
    target = model(99)
    load([run_of(tmp_path), {"weightsOnly": {}}], target)
    assert same(target, model(1000))


def test_linnaeus_newest_epoch_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    """Its own resume takes the newest file, which after a copy is any."""
    for epoch in (2, 10, 9):
        torch.save({"model": model(epoch).state_dict(), "epoch": epoch}, tmp_path / f"ckpt_epoch_{epoch}.pth")
    target = model(99)
    load([run_of(tmp_path), {"weightsOnly": {}}], target)
    assert same(target, model(10))


def test_a_newest_one_that_was_cut_is_passed_over_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for epoch in (1, 2, 3):
        torch.save({"model": model(epoch).state_dict()}, tmp_path / f"ckpt_epoch_{epoch}.pth")
    os.truncate(tmp_path / "ckpt_epoch_3.pth", 900)
    (tmp_path / "ckpt_epoch_4.pth").touch()
    with caplog.at_level(logging.INFO, "preheat"):
        assert opened(RunSource(LocalSource(str(tmp_path)))) == f"{tmp_path}/ckpt_epoch_2.pth"
    empty, cut, taken = caplog.messages
    assert empty == "passed over ckpt_epoch_4.pth: it is incomplete: ckpt_epoch_4.pth is empty"
    assert cut.startswith("passed over ckpt_epoch_3.pth: Truncated: ")
    assert taken == "taking ckpt_epoch_2.pth"


def test_one_that_was_meant_and_cut_is_an_error(tmp_path: Path) -> None:
    for epoch in (1, 2):
        torch.save({"model": model(epoch).state_dict()}, tmp_path / f"ckpt_epoch_{epoch}.pth")
    os.truncate(tmp_path / "ckpt_epoch_2.pth", 900)
    with pytest.raises(TruncatedError):
        opened(RunSource(LocalSource(str(tmp_path)), select="E2"))
    os.truncate(tmp_path / "ckpt_epoch_1.pth", 900)
    with pytest.raises(CheckpointLoadError, match="none of 2 checkpoints can be read: Truncated: "):
        opened(RunSource(LocalSource(str(tmp_path))))


def test_a_file_of_weights_alone_is_passed_over_by_a_training(tmp_path: Path) -> None:
    """What the listing does not tell, the file does."""
    lightning_files.save_training(tmp_path / "epoch=1-step=5.ckpt", model(1))
    torch.save({"state_dict": model(2).state_dict(), "epoch": 2}, tmp_path / "epoch=2-step=9.ckpt")
    source = RunSource(LocalSource(str(tmp_path)))
    assert opened(source).endswith("epoch=2-step=9.ckpt")
    assert opened(source.for_training()).endswith("epoch=1-step=5.ckpt")
    with pytest.raises(NothingMatchedError, match="holds no optimizer's state"):
        opened(RunSource(LocalSource(str(tmp_path)), select="E2").for_training())


def test_the_index_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"model": model().state_dict()}, tmp_path / "latest.pth")
    blob = RunSource(LocalSource(str(tmp_path))).open(Patience())
    before = blob.fetched
    assert set(read_index(blob).tensors) == {"weight", "bias"}
    assert blob.fetched == before
    assert set(read_index(blob).tensors) == {"weight", "bias"}, "whoever asks again is answered, too"
    blob.close()


def test_pods_get_the_checkpoint_that_the_check_has_found(tmp_path: Path) -> None:
    torch.save({"model": model(1).state_dict()}, tmp_path / "ckpt_epoch_1.pth")
    spec = parse({"stages": [run_of(tmp_path), {"weightsOnly": {}}]})
    found = plan_pipeline(spec)
    torch.save({"model": model(2).state_dict()}, tmp_path / "ckpt_epoch_2.pth")
    pin = Pin(found.uri, found.version)
    pinned = prepare(spec, Store(tmp_path / "volume"), "a-pod", pin=pin)
    assert pinned.manifest.source.uri == found.uri == f"{tmp_path}/ckpt_epoch_1.pth"
    assert prepare(spec, Store(tmp_path / "other"), "a-pod").manifest.source.uri.endswith("ckpt_epoch_2.pth")
    (tmp_path / "ckpt_epoch_1.pth").unlink()
    with pytest.raises(SourceChangedError, match=r"ckpt_epoch_1\.pth was selected.*is gone.*refreshSeconds"):
        prepare(spec, Store(tmp_path / "third"), "a-pod", pin=pin)


def test_a_composite_or_a_folder_is_pinned_as_well(tmp_path: Path) -> None:
    noether_files.save_composite(tmp_path / "n", "upt", position(1), {name: model() for name in EVERY})
    for name in ("t", "w"):
        save_trainer(tmp_path / name / "checkpoint-500", model(), 500)
    (tmp_path / "w" / "checkpoint-500" / "optimizer.pt").unlink()  # its weights alone are what is opened
    for root in (tmp_path / "n", tmp_path / "t", tmp_path / "w"):
        spec = parse({"stages": [run_of(root), {"weightsOnly": {}}]})
        found = plan_pipeline(spec)
        assert (
            prepare(spec, Store(root / "v"), "pod", pin=Pin(found.uri, found.version)).manifest.source.uri == found.uri
        )


def test_in_a_fallback_a_run_is_one_of_the_sources(tmp_path: Path) -> None:
    torch.save(model(1).state_dict(), tmp_path / "pretrained.pth")
    pretrained = {"local": {"path": str(tmp_path / "pretrained.pth")}}
    stage = {"fallback": {"sources": [run_of(tmp_path / "run"), pretrained]}}
    target = model(99)
    load([stage, {"weightsOnly": {}}], target)
    assert same(target, model(1))
    (tmp_path / "run").mkdir()
    torch.save({"model": model(2).state_dict()}, tmp_path / "run" / "latest.pth")
    load([stage, {"weightsOnly": {}}], target)
    assert same(target, model(2))
    source = build(stage)
    assert isinstance(source, FallbackSource)
    assert source.in_pod
    assert source.for_training().sources[0] == build(run_of(tmp_path / "run", trainingState=True))  # type: ignore[attr-defined]


def test_both_spellings_build_it_and_it_is_spelled_as_it_was_written() -> None:
    stage = {
        "run": {"root": {"s3": {"bucket": "b", "key": "runs/", "secretRef": "keys"}}, "runId": "r", "select": "E10"}
    }
    source = build(stage)
    assert source == RunSource(S3Source("b", "runs/", secret_ref="keys"), run_id="r", select="E10")
    assert spell(source) == stage
    target = {"_target_": "preheat.sources.RunSource", "root": {"s3": {"bucket": "b", "key": "runs/"}}, "run_id": "r"}
    assert build(target) == RunSource(S3Source("b", "runs/"), run_id="r")
    assert source.uri == "s3://b/runs/r/ (E10)"
    assert [secret for secret, _ in source.secrets] == ["keys"] * 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"root": {"verify": {}}}, "Verify names no folder"),
        ({"root": {"fallback": {"sources": [{"local": {"path": "/a"}}]}}}, "FallbackSource names no folder"),
        ({"root": {"local": {"path": "/a"}}, "runId": "../other"}, "does not match"),
        ({"root": {"local": {"path": "/a"}}, "runId": "/other"}, "does not match"),
        ({"root": {"local": {"path": "/a"}}, "stage": "a/../b"}, "does not match"),
        ({"root": {"local": {"path": "/a"}}, "stage": "a//b"}, "does not match"),
        ({"root": {"local": {"path": "/a"}}, "select": ""}, "must not be empty"),
        ({}, "root"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        build({"run": parameters})


@pytest.mark.parametrize("step", ["a", ".hidden", "..x", "2026-03-01_abcde", "project/group/name", "a.b"])
def test_folders_of_runs_may_have_any_other_name(step: str) -> None:
    assert RunSource(LocalSource("/runs"), run_id=step).place.uri == f"/runs/{step}"
