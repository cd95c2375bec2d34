"""What goes wrong in Noether without a word, done with Preheat on files as its checkpoint writer leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from legacy.noether_files import RUN, position, save_all, save_optimizer, save_trainer, save_weights, trained

from preheat import CheckpointContext, CheckpointPipeline
from preheat.errors import CheckpointLoadError, CheckpointNotFoundError

INTERRUPTED = "E2_U25_S100.signal_interrupt"


def model(seed: int = 99) -> torch.nn.Linear:
    torch.manual_seed(seed)
    return torch.nn.Linear(3, 2)


def load(root: Path, strategy: str, into: torch.nn.Module, **run: Any) -> CheckpointContext:
    trainable = list(into.get_submodule("encoder").parameters() if hasattr(into, "keys") else into.parameters())
    source = {"run": {"root": {"local": {"path": str(root)}}, **run}}
    context = CheckpointContext(model=into, optimizer=torch.optim.AdamW(trainable, lr=1.0))
    return CheckpointPipeline([source, {strategy: {}}]).execute_sync(context)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """Two epochs of a debug run, and a third that a signal has interrupted in the middle."""
    folder = tmp_path / "debug" / RUN / "checkpoints"
    for epoch in (1, 2):
        save_all(folder, "m", position(epoch), model(epoch))
    save_all(folder, "m", INTERRUPTED, model(3))
    return folder


@pytest.mark.parametrize(
    ("select", "seed", "update"),
    [("latest", 3, 25), ("U25", 3, 25), (INTERRUPTED, 3, 25), ("E2", 2, 20), ("E1", 1, 10)],
)
def test_a_training_goes_on_in_the_middle_of_an_epoch_too(
    tmp_path: Path, checkpoints: Path, select: str, seed: int, update: int
) -> None:
    """There only whole epochs are taken, and what a signal has left cannot be named."""
    into, saved = model(), model(seed)
    trained(saved)
    done = load(tmp_path, "warmStart", into, runId=f"debug/{RUN}", select=select)
    assert same(into, saved)
    assert done.metadata["global_step"] == update
    assert done.optimizer.param_groups[0]["lr"] == 0.01


def test_weights_that_are_there_already_are_loaded_as_any_others(tmp_path: Path, checkpoints: Path) -> None:
    """There a norm that does not change is an error, and one that changes is proof enough."""
    into = model(2)
    trained(into)
    done = load(checkpoints, "weightsOnly", into, select="E2")
    assert done.metadata["transferred_params"] == ["weight", "bias"]


def test_looking_for_a_run_makes_none(tmp_path: Path, checkpoints: Path) -> None:
    """There the folder of a run is made by being asked for."""
    with pytest.raises(CheckpointNotFoundError, match=r"/2026-03-02_other/train/ holds no checkpoint"):
        load(tmp_path, "weightsOnly", model(), runId="2026-03-02_other", stage="train")
    assert [path.name for path in tmp_path.iterdir()] == ["debug"]


def test_a_part_that_is_frozen_needs_no_optimizer(tmp_path: Path) -> None:
    parts = {"encoder": model(1), "decoder": model(2)}
    for name, part in parts.items():
        save_weights(tmp_path, f"upt.{name}", position(1), part.state_dict())
    names = [name for name, _ in parts["encoder"].named_parameters()]
    save_optimizer(tmp_path, "upt.encoder", position(1), trained(model(1)), names)
    save_trainer(tmp_path, "upt", position(1))
    into = torch.nn.ModuleDict({name: model() for name in parts})
    done = load(tmp_path, "warmStart", into)
    assert all(same(into[name], part) for name, part in parts.items())
    assert done.optimizer.param_groups[0]["lr"] == 0.01


def test_states_of_callbacks_by_their_place_in_a_list_are_handed_on_as_they_are(checkpoints: Path) -> None:
    """What versions before had; there another number of callbacks is an error."""
    path = checkpoints / f"m_cp={position(2)}_trainer.th"
    old = torch.load(path, weights_only=True) | {"callback_state_dicts": [{"seen": 3}, None]}
    torch.save(old, path)
    done = load(checkpoints, "warmStart", model(), select="E2")
    assert done.metadata["training_state"]["trainer"]["callback_state_dicts"] == [{"seen": 3}, None]


def test_a_file_without_weights_is_named_with_what_it_has(tmp_path: Path) -> None:
    torch.save({"checkpoint_tag": "E1_U1_S1", "training_iteration": {"epoch": 1}}, tmp_path / "m_cp=E1_U1_S1_model.th")
    with pytest.raises(CheckpointLoadError, match=r"no tensors under state_dict.*'checkpoint_tag', 'training_iter"):
        load(tmp_path, "weightsOnly", model(), select="E1")
