"""What `preheat.save` writes in plain torch, and that a training goes on from it as if it had never stopped."""

from __future__ import annotations

import json
import logging
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from saving.loops import Loop, pointed, same

import preheat
from preheat.bundle.data import open_bundle
from preheat.bundle.store import Store
from preheat.errors import (
    CheckpointConfigError,
    CheckpointIncompatibleError,
    CheckpointValidationError,
    NothingMatchedError,
    StorageError,
    UnsupportedFormatError,
)
from preheat.prepare import prepare
from preheat.spec import parse

UNTIL = 11


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """A training that never stopped."""
    return Loop().run(UNTIL).facts()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return Loop().run(6).save(tmp_path / "run")


def test_a_training_goes_on_as_if_it_had_never_stopped(saved: Path, whole: dict[str, Any]) -> None:
    resumed = Loop(seed=9)
    report = resumed.resume(saved)
    assert same(resumed.run(UNTIL).facts(), whole)
    assert report.strategy == "warm_start"
    assert report.notes == (
        "restored AdamW (4 parameters by name), MultiStepLR, GradScaler, random states, epoch 1, global_step 6",
    )


def test_it_goes_on_from_the_bundle_that_a_loader_makes_of_it(
    saved: Path, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [{"local": {"path": str(saved)}}, {"verify": {"finite": True}}, {"warmStart": {}}]
    folder = prepare(parse({"stages": stages}), Store(tmp_path / "volume"), "test").folder
    for bundle in (folder, saved):  # a saved checkpoint is a bundle itself
        monkeypatch.setenv("PREHEAT_BUNDLE", str(bundle))
        resumed = Loop(seed=9)
        report = preheat.apply(resumed.model, resumed.optimizer, resumed.scheduler, scaler=resumed.scaler)
        resumed.update, resumed.losses = report.state["global_step"], list(report.state["extra"]["losses"])
        assert same(resumed.run(UNTIL).facts(), whole)


def test_a_folder_holds_safetensors_a_state_and_a_manifest_with_checksums(saved: Path, tmp_path: Path) -> None:
    assert saved == tmp_path / "run" / "checkpoints" / "model_cp=E1_U6_S24"
    assert sorted(os.listdir(saved)) == ["manifest.json", "model.safetensors", "state.json", "state.safetensors"]
    manifest = open_bundle(saved).manifest
    assert manifest is not None
    assert manifest.saved is not None
    assert (manifest.saved.epoch, manifest.saved.update, manifest.saved.sample) == (1, 6, 24)
    assert manifest.saved.training_state
    for name, size in manifest.files.items():
        content = (saved / name).read_bytes()
        assert (len(content), zlib.crc32(content)) == (size, manifest.checksums[name])
    with safe_open(saved / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        for name, facts in manifest.tensors.items():
            assert zlib.crc32(file.get_tensor(name).numpy().tobytes()) == facts.crc32
    assert sorted(os.listdir(saved.parent)) == ["model_cp=E1_U6_S24", "model_cp=latest.json"]
    assert pointed(saved.parent, "latest") == saved


@pytest.mark.parametrize("file", ["model.safetensors", "state.safetensors"])
def test_a_wrong_bit_is_found_before_the_model_is_touched(saved: Path, file: str) -> None:
    content = bytearray((saved / file).read_bytes())
    content[-3] ^= 1
    (saved / file).write_bytes(content)
    resumed = Loop(seed=9)
    before = {name: value.clone() for name, value in resumed.model.state_dict().items()}
    with pytest.raises(CheckpointValidationError, match="CRC-32") as caught:
        resumed.resume(saved)
    assert ("touched" in str(caught.value)) is (file == "state.safetensors")
    assert same(dict(resumed.model.state_dict()), before) is (file == "model.safetensors")


def test_writing_beside_the_training_saves_what_was_there_when_it_was_asked_for(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    loop = Loop().run(3)
    for _ in range(3):  # the copies' memory is used again
        loop.save(tmp_path, wait=False)
        loop.step()
    folder = loop.save(tmp_path, wait=False)
    loop.run(UNTIL)
    preheat.flush()
    resumed = Loop(seed=9)
    resumed.resume(folder)
    assert resumed.update == 6
    assert same(resumed.run(UNTIL).facts(), whole)
    assert len(list(tmp_path.glob("checkpoints/model_cp=E*"))) == 4


def test_what_went_wrong_beside_the_training_is_raised_by_whoever_saves_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop()
    (tmp_path / "checkpoints").write_text("no folder")
    loop.save(tmp_path, wait=False)
    with pytest.raises(StorageError, match=f"writing to {tmp_path}/checkpoints failed"):
        preheat.flush()
    assert "a checkpoint was not saved" in caplog.text
    preheat.flush()  # it is said once


def test_tied_weights_of_every_kind_come_back(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(5, 4), "head": torch.nn.Linear(4, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    for name, dtype in (("brain", torch.bfloat16), ("count", torch.int64), ("flag", torch.bool)):
        model.register_buffer(name, torch.ones(3, 3).to(dtype).T)
    model.register_buffer("empty", torch.zeros(0, 3))
    folder = preheat.save(tmp_path, model, update=1)
    assert set(load_file(folder / "model.safetensors")) == {"brain", "count", "embed.weight", "empty", "flag"}
    other = torch.nn.ModuleDict({"embed": torch.nn.Embedding(5, 4), "head": torch.nn.Linear(4, 5, bias=False)})
    other["head"].weight = other["embed"].weight
    for name in ("brain", "count", "flag", "empty"):
        other.register_buffer(name, torch.zeros_like(model.get_buffer(name)))
    preheat.apply(other, pipeline=[{"local": {"path": str(folder)}}, {"weightsOnly": {"strict": True}}])
    assert same(dict(other.state_dict()), dict(model.state_dict()))


def test_names_of_wrappers_are_left_out(tmp_path: Path) -> None:
    model = torch.nn.DataParallel(Loop().model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    compiled = torch.nn.Module()
    compiled._orig_mod = model  # as torch.compile does it
    folder = preheat.save(tmp_path, compiled, optimizer, update=1)
    assert set(load_file(folder / "model.safetensors")) == set(Loop().model.state_dict())
    assert (
        json.loads((folder / "state.json").read_text())["optimizer"]["param_groups"][0]["param_names"][0] == "0.weight"
    )


def test_an_optimizer_is_restored_by_name_and_gets_no_names_that_it_has_not(tmp_path: Path) -> None:
    loop = Loop().run(3)
    [first, second] = loop.optimizer.param_groups
    folder = preheat.save(tmp_path, loop.model, loop.optimizer, update=3)
    resumed = Loop(seed=9)
    for group in resumed.optimizer.param_groups:
        group["params"].reverse()
    stages = [{"local": {"path": str(folder)}}, {"warmStart": {}}]
    preheat.apply(resumed.model, resumed.optimizer, pipeline=stages)
    weight, theirs = resumed.model[0].weight, loop.model[0].weight
    assert torch.equal(resumed.optimizer.state[weight]["exp_avg"], loop.optimizer.state[theirs]["exp_avg"])
    assert not any("param_names" in group for group in (first, second, *resumed.optimizer.param_groups))


def test_a_part_keeps_its_names_and_its_precision(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"encoder": torch.nn.Linear(4, 3).bfloat16(), "head": torch.nn.Linear(3, 1)})
    folder = preheat.save(tmp_path, model, epoch=2, name="upt", part="encoder")
    assert folder.name == "upt.encoder_cp=E2"
    assert {name: value.dtype for name, value in load_file(folder / "model.safetensors").items()} == {
        "encoder.weight": torch.bfloat16, "encoder.bias": torch.bfloat16,
    }  # fmt: skip
    chosen = preheat.save(tmp_path, model, epoch=2, info="only=weights", select=[r"\.weight$"])
    assert set(load_file(chosen / "model.safetensors")) == {"encoder.weight", "head.weight"}
    with pytest.raises(NothingMatchedError, match=r"no weights in 'encoders' \(did you mean 'encoder'\?\)"):
        preheat.save(tmp_path, model, epoch=2, part="encoders")
    with pytest.raises(CheckpointConfigError, match="would have the name of the whole checkpoint"):
        preheat.save(tmp_path, model, epoch=2, select=["head"])
    with pytest.raises(CheckpointConfigError, match="no training goes on from a part"):
        preheat.save(tmp_path, model, torch.optim.SGD(model.parameters()), epoch=2, part="encoder")


def test_weights_alone_do_not_take_latest_from_what_can_be_resumed(saved: Path, tmp_path: Path) -> None:
    loop = Loop()
    alone = preheat.save(tmp_path / "run", loop.model, update=7, tags=["release"])
    assert pointed(saved.parent, "latest") == saved
    assert pointed(saved.parent, "release") == alone
    assert not (alone / "state.json").exists()


def test_saving_again_replaces_what_was_there(saved: Path, tmp_path: Path) -> None:
    inode = saved.stat().st_ino
    assert Loop(seed=5).run(6).save(tmp_path / "run") == saved
    assert saved.stat().st_ino != inode
    assert sorted(os.listdir(saved.parent)) == ["model_cp=E1_U6_S24", "model_cp=latest.json"]


def test_what_cannot_be_saved_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    loop = Loop()
    with pytest.raises(UnsupportedFormatError, match=r"extra\.where is an object of pathlib\.PosixPath"):
        loop.save(tmp_path, extra={"where": tmp_path})
    with pytest.raises(UnsupportedFormatError, match=r"tensor 'extra\.z' has dtype torch.complex128"):
        loop.save(tmp_path, extra={"z": torch.zeros(1, dtype=torch.complex128)})
    with pytest.raises(UnsupportedFormatError, match="tensor 'weight' is on the meta device"):
        preheat.save(tmp_path, torch.nn.Linear(2, 2, device="meta"), update=1)
    with pytest.raises(CheckpointConfigError, match="say where the training is"):
        preheat.save(tmp_path, loop.model)
    with pytest.raises(CheckpointConfigError, match="update is -1, not a count"):
        preheat.save(tmp_path, loop.model, update=-1)
    with pytest.raises(CheckpointConfigError, match=r"s3:/bucket/runs is no folder"):
        preheat.save("s3://bucket/runs", loop.model, update=1)
    with pytest.raises(CheckpointConfigError, match="scheduler, scaler and extra are of a training"):
        preheat.save(tmp_path, loop.model, scheduler=loop.scheduler, update=1)
    with pytest.raises(CheckpointConfigError, match=r"run_id: '\.\./x' cannot be the name of a folder"):
        preheat.save(tmp_path, loop.model, update=1, run_id="../x")
    assert not list(tmp_path.iterdir())


def test_a_scaler_that_would_stay_fresh_is_refused(tmp_path: Path) -> None:
    folder = Loop().save(tmp_path, scaler=None)
    with pytest.raises(CheckpointIncompatibleError, match="no state for the scaler"):
        Loop(seed=9).resume(folder)


def test_places_and_templates(tmp_path: Path) -> None:
    model = Loop().model
    where: dict[str, Any] = {"run_id": "exp-7", "stage": "pretrain", "name": "transformer", "info": "ema=0.999"}
    folder = preheat.save(tmp_path, model, epoch=1, update=2, sample=3, **where)
    assert folder == tmp_path / "exp-7" / "pretrain" / "checkpoints" / "transformer_ema=0.999_cp=E1_U2_S3"
    assert (folder.parent / "transformer_ema=0.999_cp=latest.json").exists()
    assert preheat.save(tmp_path, model, update=7, template="step-{update:06d}").name == "step-000007"
    with pytest.raises(CheckpointConfigError, match=r"'\{step\}' cannot be filled: KeyError"):
        preheat.save(tmp_path, model, update=7, template="{step}")


def test_the_best_by_a_metric_and_where_a_training_would_have_stopped(tmp_path: Path) -> None:
    model = Loop().model
    seen = []
    values = [0.5, 0.4, 0.45, 0.41, 0.3, 0.2]
    for update, value in enumerate(values):
        wanted: dict[str, Any] = {"metrics": {"val/loss": torch.tensor(value)}, "best": {"val/loss": "min"}}
        preheat.save(tmp_path, model, update=update, tolerances=[1, 2], **wanted)
        tags = ("best.val.loss", "best.val.loss.tolerance=1", "best.val.loss.tolerance=2")
        seen.append([pointed(tmp_path / "checkpoints", tag).name[-1] for tag in tags])
    # After two evaluations that brought nothing better more than one was tolerated, and never more than two.
    assert seen == [
        ["0", "0", "0"],
        ["1", "1", "1"],
        ["1", "1", "1"],
        ["1", "1", "1"],
        ["4", "1", "4"],
        ["5", "1", "5"],
    ]
    with pytest.raises(CheckpointConfigError, match="no metric 'accuracy', but none"):
        preheat.save(tmp_path, model, update=9, best={"accuracy": "max"})


def test_a_value_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    model = Loop().model
    for update, value in enumerate([float("nan"), 0.5, float("nan")]):
        preheat.save(tmp_path, model, update=update, metrics={"loss": value}, best={"loss": "min"})
    assert pointed(tmp_path / "checkpoints", "best.loss").name == "model_cp=U1"
    manifest = json.loads((tmp_path / "checkpoints" / "model_cp=U2" / "manifest.json").read_text())
    assert manifest["saved"]["metrics"] == {"loss": None}


def test_what_a_state_dict_has_beside_tensors_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Extra(torch.nn.Linear):
        def get_extra_state(self) -> Any:
            return {"a": 1}

        def set_extra_state(self, state: Any) -> None: ...

    caplog.set_level(logging.WARNING)
    preheat.save(tmp_path, Extra(2, 2), update=1)
    assert "not saved, since they are no tensors: _extra_state" in caplog.text


@pytest.mark.parametrize(("select", "update"), [("latest", 7), ("E0", 3), ("U6", 6), ("best.loss", 6), ("last", 7)])
def test_a_run_is_found_by_what_was_saved(tmp_path: Path, select: str, update: int) -> None:
    loop = Loop()
    for until, loss in ((3, 0.5), (6, 0.25), (7, 0.4)):
        tags = ["last"] if until == 7 else []
        loop.run(until).save(tmp_path, run_id="exp-7", metrics={"loss": loss}, best={"loss": "min"}, tags=tags)
    run = {"root": {"local": {"path": str(tmp_path)}}, "runId": "exp-7", "select": select}
    resumed = Loop(seed=9)
    preheat.apply(*resumed.objects, [{"run": run}, {"warmStart": {}}], scaler=resumed.scaler)
    assert resumed.scheduler.last_epoch == update


@pytest.mark.parametrize("wait", [True, False])
def test_what_is_not_to_be_kept_goes_when_the_next_one_is_there(tmp_path: Path, wait: bool) -> None:
    loop, keep = Loop(), preheat.Retention(last=2, every="U4")
    for _ in range(7):
        loop.run(loop.update + 1).save(tmp_path, keep=keep, wait=wait)
    preheat.flush()
    home = tmp_path / "checkpoints"
    assert sorted(int(each.name.partition("_U")[2].partition("_")[0]) for each in home.iterdir() if each.is_dir()) == [
        *(1, 4),  # the first of each four
        *(6, 7),
    ]
    assert pointed(home, "latest").is_dir()


def test_a_training_goes_on_when_nothing_can_be_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loop, keep = Loop().run(1), preheat.Retention(last=1)
    first = loop.save(tmp_path)
    (first.parent / "model_cp=best.loss.json").write_text("half of a poin")
    assert loop.run(2).save(tmp_path, keep=keep).is_dir()
    assert first.is_dir()
    assert "nothing was removed from" in caplog.text
    assert "best.loss" in caplog.text
