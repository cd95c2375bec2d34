"""The examples of linnaeus' page on checkpoints, each done with Preheat on files in its layout."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from legacy.linnaeus_files import MFormerV0, MFormerV1, convnext, metaformer, ropevit, trainer_file
from sources.fault_server import FaultServer
from typer.testing import CliRunner

from preheat import CheckpointContext, CheckpointPipeline, resolve_checkpoint_path
from preheat.cli import app
from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, CheckpointNotFoundError

CONVNEXT, ROPEVIT = "convnext_tiny_22k_1k_384.pth", "ropevit_base_patch16_224.pth"
STEM = {
    "select": [r"^downsample_layers\.0\."],
    "rename": [{"pattern": r"^downsample_layers\.0\.", "replacement": "stem."}],
}
TOKEN = {"select": ["^cls_token$"], "rename": [{"pattern": "cls_token", "replacement": "cls_token_1"}]}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """ENV.INPUT.CACHE_DIR: flat."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    convnext(folder / CONVNEXT)
    ropevit(folder / ROPEVIT)
    metaformer(folder / "mFormer_sm_epoch_200.pth", 3)
    return folder


@pytest.fixture
def bucket(cache: Path) -> Iterator[FaultServer]:
    """ENV.INPUT.BUCKET, with PATH_PREFIX modelZoo/; anything that answers by name will do."""
    with FaultServer().running() as server:
        for path in cache.iterdir():
            server.serve(f"/linnaeus-checkpoints/modelZoo/{path.name}", path.read_bytes())
        yield server


def named(name: str, cache: Path, bucket: FaultServer | None = None) -> dict[str, Any]:
    place = {"http": {"url": f"{bucket.origin}/linnaeus-checkpoints/modelZoo/"}} if bucket else None
    return {"named": {"name": name, "cacheDir": str(cache), **({"bucket": place} if place else {})}}


def run(model: torch.nn.Module, *stages: dict[str, Any], **objects: Any) -> CheckpointContext:
    return CheckpointPipeline(stages).execute_sync(CheckpointContext(model=model, **objects))


@pytest.mark.parametrize("absolute", [True, False], ids=["an absolute path", "a file name"])
def test_a_checkpoint_is_referred_to_by_path_or_by_name(cache: Path, absolute: bool) -> None:
    model, name = MFormerV0(3), "mFormer_sm_epoch_200.pth"
    run(model, named(str(cache / name) if absolute else name, cache), {"transferLearning": {}})
    assert torch.equal(model.norm_1.weight, torch.load(cache / name)["model"]["norm_1.weight"])


@pytest.mark.parametrize("cached", [True, False], ids=["from the cache", "from the bucket"])
def test_a_hybrid_names_both_of_its_models(cache: Path, bucket: FaultServer, tmp_path: Path, cached: bool) -> None:
    where = cache if cached else tmp_path / "empty"
    where.mkdir(exist_ok=True)
    parts = [{"from": named(CONVNEXT, where, bucket), **STEM}, {"from": named(ROPEVIT, where, bucket), **TOKEN}]
    model = MFormerV1()
    run(model, {"merge": {"sources": parts}}, {"transferLearning": {}}).checkpoint_data.close()
    assert torch.equal(model.cls_token_1, torch.load(cache / ROPEVIT)["state_dict"]["cls_token"])
    assert bool(bucket.requests) is not cached
    assert list(where.iterdir()) == [] or cached, "nothing is written where nothing was asked for"


def test_what_is_nowhere_is_an_error_that_lists_where_it_was_looked_for(cache: Path, bucket: FaultServer) -> None:
    with pytest.raises(CheckpointNotFoundError) as caught:
        run(MFormerV1(), named("gone.pth", cache, bucket), {"transferLearning": {}})
    assert str(cache) in str(caught.value)
    assert "modelZoo/" in str(caught.value)
    with pytest.raises(CheckpointNotFoundError, match="no bucket"):  # BUCKET.ENABLED: False
        run(MFormerV1(), named("gone.pth", cache), {"transferLearning": {}})


def test_the_same_name_twice_below_the_cache_is_an_error(cache: Path) -> None:
    for folder in ("a", "b"):
        (cache / folder).mkdir()
        shutil.copy(cache / CONVNEXT, cache / folder / "twice.pth")
    with pytest.raises(CheckpointConfigError, match="2 times"):
        run(MFormerV1(), named("twice.pth", cache), {"transferLearning": {}})


def training() -> tuple[torch.nn.Module, torch.optim.Optimizer, Any]:
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, step_size=3)


def trained(epochs: int, folder: Path) -> torch.nn.Module:
    model, optimizer, scheduler = training()
    for epoch in range(1, epochs + 1):
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        scheduler.step()
        trainer_file(folder / f"ckpt_epoch_{epoch}.pth", model, optimizer, scheduler, epoch)
    return model


def test_a_training_resumes_from_its_latest_checkpoint(tmp_path: Path) -> None:
    """TRAIN.AUTO_RESUME."""
    saved = trained(11, tmp_path)
    model, optimizer, scheduler = training()
    source = {"run": {"root": {"local": {"path": str(tmp_path)}}, "select": "latest"}}
    done = run(model, source, {"warmStart": {}}, optimizer=optimizer, scheduler=scheduler)
    assert torch.equal(model.weight, saved.weight)
    assert scheduler.last_epoch == 11
    assert done.metadata["training_state"]["training_progress"]["global_step"] == 110
    assert done.metadata["epoch"] == 11


def test_a_training_resumes_from_the_checkpoint_that_is_named(tmp_path: Path) -> None:
    """TRAIN.RESUME."""
    trained(4, tmp_path)
    model, optimizer, scheduler = training()
    done = run(model, named("ckpt_epoch_3.pth", tmp_path), {"warmStart": {}}, optimizer=optimizer, scheduler=scheduler)
    assert done.metadata["epoch"] == 3
    assert optimizer.state_dict()["state"][0]["step"] == 3


def test_an_optimizer_that_changed_is_an_error_that_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """There it is a warning, and the training goes on with a fresh optimizer and schedule."""
    trained(1, tmp_path)
    model, _, _ = training()
    before = model.weight.clone()
    optimizer = torch.optim.AdamW([{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3)
    with pytest.raises(CheckpointIncompatibleError, match="group"):
        run(model, named("ckpt_epoch_1.pth", tmp_path), {"warmStart": {}}, optimizer=optimizer, scheduler=scheduler)
    assert torch.equal(model.weight, before)
    assert not optimizer.state


def test_without_rules_and_with_rules_of_zero_no_checkpoint_goes(tmp_path: Path) -> None:
    """There KEEP_TOP_N: 0 and KEEP_LAST_N: 0 leave latest.pth alone."""
    trained(3, tmp_path)
    shutil.copy(tmp_path / "ckpt_epoch_3.pth", tmp_path / "latest.pth")
    names = sorted(path.name for path in tmp_path.iterdir())
    for rules in ([], ["--keep-last", "0"], ["--keep-last", "0", "--keep-best", "0"]):
        CliRunner().invoke(app, ["prune", str(tmp_path), *rules, "--yes"])
        assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert CliRunner().invoke(app, ["prune", str(tmp_path), "--keep-last", "1", "--yes"]).exit_code == 0
    # One of the numbered ones stays beside latest.pth, which the next save writes anew, in place.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt_epoch_3.pth", "latest.pth"]


def test_a_checkpoint_is_sent_by_hand_and_found_by_its_name(tmp_path: Path) -> None:
    """tools/scripts/upload_checkpoints.sh, which is not in linnaeus' repository."""
    file, zoo = tmp_path / "checkpoint.pth", tmp_path / "bucket" / "modelZoo"
    metaformer(file, 3)
    sent = CliRunner().invoke(app, ["upload", str(file), str(zoo)])
    assert sent.exit_code == 0, sent.output
    found = resolve_checkpoint_path("checkpoint.pth", tmp_path / "cache", str(zoo))
    assert Path(found).read_bytes() == file.read_bytes()


def test_the_configurations_schedule_holds_where_the_checkpoints_is_not_wanted(tmp_path: Path) -> None:
    """TRAIN.PRESERVE_CHECKPOINT_SCHEDULE: False."""
    trained(7, tmp_path)
    model, optimizer, _ = training()
    done = run(model, named("ckpt_epoch_7.pth", tmp_path), {"warmStart": {}}, optimizer=optimizer, scheduler=False)
    assert "no scheduler (scheduler=False)" in done.metadata["restored"]
    own = torch.optim.lr_scheduler.StepLR(optimizer, 5, last_epoch=done.metadata["training_state"]["iteration"] // 10)
    assert own.last_epoch == 8, "which counts one on when it is built"


def test_the_scale_of_gradients_comes_back_and_a_scaler_that_is_not_given_is_told_of(tmp_path: Path) -> None:
    """linnaeus keeps it under `amp`."""
    saved, optimizer, scheduler = training()
    torch.nn.functional.linear(torch.ones(1, 4), saved.weight).sum().backward()
    optimizer.step()
    state = torch.amp.GradScaler("cpu", init_scale=8.0)
    trainer_file(tmp_path / "ckpt_epoch_1.pth", saved, optimizer, scheduler, 1, state)
    for given in (torch.amp.GradScaler("cpu"), None):
        model, optimizer, scheduler = training()
        objects = {"optimizer": optimizer, "scheduler": scheduler, "scaler": given}
        done = run(model, named("ckpt_epoch_1.pth", tmp_path), {"warmStart": {}}, **objects)
        assert given is None or given.state_dict() == state.state_dict()
        said = "GradScaler" if given else "no scaler (the checkpoint has amp, and none was given)"
        assert said in done.metadata["restored"]


def test_the_resolver_is_a_function_of_the_same_arguments(cache: Path) -> None:
    assert Path(resolve_checkpoint_path(CONVNEXT, str(cache), None)) == cache / CONVNEXT
    with pytest.raises(CheckpointNotFoundError):
        resolve_checkpoint_path("gone.pth", str(cache), None)
