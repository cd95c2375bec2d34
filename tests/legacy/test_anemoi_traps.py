"""What goes wrong in Anemoi without a word, done with Preheat on files as its trainer writes them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from legacy.lightning_files import INDICES, indices_of_a_dataset, save_inference, save_training
from sources.fault_server import FaultServer

from preheat import CheckpointContext, CheckpointPipeline, PipelineStage, inspect, verify_checkpoint
from preheat.errors import NothingMatchedError

WARM, COLD = {"warmStart": {}}, {"coldStart": {}}


def model(seed: int = 99) -> torch.nn.Linear:
    torch.manual_seed(seed)
    return torch.nn.Linear(3, 2)


def load(source: dict[str, Any], *stages: Any, **objects: Any) -> CheckpointContext:
    return CheckpointPipeline([source, *stages]).execute_sync(CheckpointContext(**objects))


def local(path: Path) -> dict[str, Any]:
    return {"local": {"path": str(path)}}


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("held", [lambda found: found, lambda found: {"data": found}], ids=["one", "of each dataset"])
def test_a_run_is_read_without_its_classes_and_they_are_named(tmp_path: Path, held: Callable[[Any], Any]) -> None:
    """There both are unpickled, and one way to hold a dataset's indices ends in a TypeError."""
    path, saved = tmp_path / "last.ckpt", model(1)
    with indices_of_a_dataset() as found:
        save_training(path, saved, made_with={"data_indices": held(found), "config": {"a": 1}})
    assert not any(name.startswith("anemoi") for name in sys.modules)
    into = model()
    optimizer = torch.optim.AdamW(into.parameters(), lr=1.0)
    done = load(local(path), WARM, model=into, optimizer=optimizer)
    assert same(into, saved)
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert set(done.metadata["not_made"].values()) == {f"{INDICES}.IndexCollection"}
    assert done.metadata["training_state"]["hyper_parameters"]["config"] == {"a": 1}


def test_what_anemoi_adds_to_a_model_for_inference_is_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "inference-last.ckpt"
    save_inference(path, model(1))
    assert set(inspect(path).tensors) == {"weight", "bias"}
    verify_checkpoint(path)
    into = model()
    load(local(path), {"weightsOnly": {}}, model=into)
    assert same(into, model(1))
    with pytest.raises(NothingMatchedError, match="no optimizer's state, so training cannot go on from it"):
        load(local(path), WARM, model=into, optimizer=torch.optim.AdamW(into.parameters()))


def test_a_training_goes_on_from_a_url_and_a_new_one_knows_where_it_came_from(tmp_path: Path) -> None:
    """There a warm start wants a file on the disk, and behind a URL nobody knows the origin."""
    save_training(tmp_path / "last.ckpt", model(1))
    with FaultServer().running() as server:
        url = server.serve("/last.ckpt", (tmp_path / "last.ckpt").read_bytes())
        into = model()
        optimizer = torch.optim.AdamW(into.parameters(), lr=1.0)
        warm = load({"http": {"url": url}}, WARM, model=into, optimizer=optimizer)
        cold = load({"http": {"url": url}}, COLD, model=model())
        for done in (warm, cold):
            assert done.checkpoint_data is not None
            done.checkpoint_data.close()
    assert (warm.metadata["global_step"], optimizer.param_groups[0]["lr"]) == (400, 0.01)
    assert cold.metadata["pretrained_from"] == url


def test_progress_that_the_checkpoint_does_not_tell_is_not_made_up(tmp_path: Path) -> None:
    """There it is epoch 0, step 0."""
    save_training(tmp_path / "last.ckpt", model(1))
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    torch.save({key: value for key, value in content.items() if key not in ("epoch", "global_step")}, tmp_path / "x.pt")
    into = model()
    done = load(local(tmp_path / "x.pt"), WARM, model=into, optimizer=torch.optim.AdamW(into.parameters()))
    assert not {"epoch", "global_step"} & done.metadata.keys()


class FreezingSourceLoader(PipelineStage):
    """By its name a source, a loader and a modifier."""

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Nothing."""
        return context


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_stage_is_what_it_is_and_not_what_its_class_is_called(tmp_path: Path, at: int) -> None:
    """There the order is judged by parts of names."""
    saved = model(1)
    save_training(tmp_path / "last.ckpt", saved)
    stages: list[Any] = [local(tmp_path / "last.ckpt"), {"weightsOnly": {}}]
    stages.insert(at, FreezingSourceLoader())
    into = model()
    load(stages[0], *stages[1:], model=into)
    assert same(into, saved)
