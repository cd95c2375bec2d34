"""Accelerate's FSDP2 and Transformers' Trainer with `fsdp`, over two processes: each reads its part, all go on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from shim.bundles import WEIGHTS_ONLY, write_bundle
from shim.playing import play
from shim.sharded import NO_LUCK, Net, facts, optimizer_of, scheduler_of, train

import preheat

BYTES = 4 * (33 * 4 + 33 + 33 + 1)  # of the model


def one() -> tuple[Any, ...]:
    """A training of one process."""
    optimizer = optimizer_of(model := Net())
    return model, optimizer, scheduler_of(optimizer)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A training of twelve steps in one process, saved after four, from where two processes go on to eight."""
    folder = tmp_path_factory.mktemp("accelerate")
    torch.manual_seed(0)
    objects = one()
    losses = train(*objects, range(4))
    saved = preheat.save(folder / "run", *objects, epoch=1, update=4)
    (folder / "one").symlink_to(saved)
    weights = dict(objects[0].state_dict())
    write_bundle(folder / "weights", weights)
    write_bundle(folder / "frozen", weights, [WEIGHTS_ONLY, {"freezing": {"layers": ["encoder"]}}])
    write_bundle(folder / "strange", {"net.0.weight": torch.ones(2, 3)})
    before = facts(*objects)
    losses += train(*objects, range(4, 8))
    middle = facts(*objects)
    losses += train(*objects, range(8, 12))
    ranks = play(Path(__file__).with_name("accelerate_rank.py"), folder)
    return SimpleNamespace(
        folder=folder, ranks=ranks, losses=losses, weights=before[0], middle=middle, last=facts(*objects)
    )


def test_two_processes_go_on_where_one_has_stopped(played: SimpleNamespace) -> None:
    for rank in played.ranks:
        found = rank["resumed"]
        assert found["losses"] == played.losses[4:8]
        assert found["objects"] == played.middle
        assert found["partial"] == 4
        assert found["notes"][0].startswith("restored AdamW (4 parameters by name), MultiStepLR, no random states")
    assert sum(rank["resumed"]["bytes"] for rank in played.ranks) == BYTES


def test_and_one_where_the_two_have_stopped(played: SimpleNamespace) -> None:
    objects = one()
    checkpoint = played.ranks[0]["resumed"]["saved"]
    preheat.apply(*objects, [{"local": {"path": checkpoint}}, {"warmStart": {}}])
    assert train(*objects, range(8, 12)) == played.losses[8:]
    assert facts(*objects) == played.last


def test_weights_alone_are_read_in_parts_also_where_the_first_process_hands_out_its_own(
    played: SimpleNamespace,
) -> None:
    for rank in played.ranks:
        assert rank["weights"]["weights"] == played.weights
        assert rank["weights"]["partial"] == 4
    assert sum(rank["weights"]["bytes"] for rank in played.ranks) == BYTES


def test_modifiers_are_given_the_model_before_it_is_sharded(played: SimpleNamespace) -> None:
    for rank in played.ranks:
        assert rank["frozen"]["weights"] == played.weights
        assert (rank["frozen"]["partial"], rank["frozen"]["bytes"]) == (0, BYTES)
        assert rank["frozen"]["frozen"] == ["encoder.weight", "encoder.bias"]


def test_when_one_process_cannot_restore_all_stop_for_its_reason(played: SimpleNamespace) -> None:
    first, second = (rank["unlucky"].partition("\n")[0] for rank in played.ranks)
    assert second == f"CheckpointLoadError: {NO_LUCK}"
    assert first == f"CheckpointLoadError: rank 1: {NO_LUCK}"


def test_a_checkpoint_of_another_model_stops_all(played: SimpleNamespace) -> None:
    for rank in played.ranks:
        assert rank["strange"].startswith("NothingMatchedError: ")


def test_transformers_goes_on_with_parts_as_if_it_had_never_stopped(played: SimpleNamespace) -> None:
    for rank in played.ranks:
        straight, found = rank["trainer"]["straight"], rank["trainer"]["resumed"]
        assert {key for key, value in straight.items() if found[key] != value} == set()
        assert found["partial"] == 25
        assert found["notes"][-1] == (
            "Transformers went on at step 5, with optimizer, scheduler, averages, random states of the checkpoint"
        )
    averages = (f"{run}/checkpoints/model_ema=0.5_cp=E3_U9/model.safetensors" for run in ("trainer", "again"))
    first, second = (load_file(played.folder / name) for name in averages)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_transformers_own_restore_wins(played: SimpleNamespace) -> None:
    for rank in played.ranks:
        straight, found = rank["trainer"]["straight"], rank["trainer"]["given"]
        assert {key for key, value in straight.items() if found[key] != value} == set()
        assert "Transformers then restored" in found["notes"][-1]
