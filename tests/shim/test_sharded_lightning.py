"""Lightning's ModelParallelStrategy over two processes: what it saves, and trainings that go on as if never stopped."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from shim.playing import play
from shim.sharded import NO_LUCK, Net, facts, optimizer_of, scheduler_of, train

import preheat


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("lightning")
    return SimpleNamespace(folder=folder, ranks=play(Path(__file__).with_name("lightning_rank.py"), folder))


def last_of(straight: dict[str, Any], **others: Any) -> dict[str, Any]:
    """What a training from the first epoch's end has to come to."""
    return {**straight, "losses": straight["losses"][4:], "drawn": straight["drawn"][4:], **others}


def test_each_process_goes_on_with_its_part_as_if_it_had_never_stopped(played: SimpleNamespace) -> None:
    for rank in played.ranks:
        found, wanted = rank["resumed"], last_of(rank["straight"])
        assert {key for key, value in wanted.items() if found[key] != value} == set()
        assert found["partial"] == 4
        assert found["notes"][-1] == "Lightning restored optimizers, schedulers, loops and callbacks at step 4"
    assert sum(rank["resumed"]["bytes"] for rank in played.ranks) == 4 * (33 * 4 + 33 + 33 + 1)


def test_averages_go_on_in_parts_too(played: SimpleNamespace) -> None:
    names = (f"{run}/checkpoints/model_ema=0.5_cp=E3_U12/model.safetensors" for run in ("saved", "again"))
    straight, resumed = (load_file(played.folder / name) for name in names)
    assert all(torch.equal(straight[name], value) for name, value in resumed.items())
    assert not torch.equal(straight["head.weight"], load_file(final(played))["head.weight"])


def final(played: SimpleNamespace) -> Path:
    return played.folder / "saved" / "checkpoints" / "model_cp=E3_U12" / "model.safetensors"


def test_lightnings_own_folder_of_shards_is_gone_on_from(played: SimpleNamespace) -> None:
    for rank in played.ranks:
        found, wanted = rank["own"], last_of(rank["straight"])
        assert {key for key, value in wanted.items() if found[key] != value} == {"drawn"}  # it has no random states


@pytest.mark.parametrize("root", ["saved", "shards"])
def test_one_process_goes_on_where_two_have_stopped(played: SimpleNamespace, root: str) -> None:
    model = Net()
    optimizer = optimizer_of(model)
    scheduler = scheduler_of(optimizer)
    checkpoint = played.folder / root / "checkpoints" / "model_cp=E1_U4"
    preheat.apply(model, optimizer, scheduler, [{"local": {"path": str(checkpoint)}}, {"warmStart": {}}])
    straight = played.ranks[0]["straight"]
    assert train(model, optimizer, scheduler, range(4, 12)) == straight["losses"][4:]
    assert facts(model, optimizer)[0] == straight["objects"][0]


def test_what_lightning_would_gather_for_its_own_file_is_saved_alike(played: SimpleNamespace) -> None:
    files = [
        played.folder / root / "checkpoints" / "model_cp=E1_U4" / name
        for name in ("model.safetensors", "state.safetensors") for root in ("saved", "gathered")
    ]  # fmt: skip
    for one, other in (files[:2], files[2:]):
        tensors, others = load_file(one), load_file(other)
        differing = {name for name, value in others.items() if not torch.equal(tensors[name], value)}
        assert {name.partition(".")[0] for name in differing} <= {"random_states"}


def test_when_one_process_cannot_restore_all_stop_for_its_reason(played: SimpleNamespace) -> None:
    first, second = (rank["unlucky"].partition("\n")[0] for rank in played.ranks)
    assert second == f"CheckpointLoadError: {NO_LUCK}"
    assert first == f"CheckpointLoadError: rank 1: {NO_LUCK}"
