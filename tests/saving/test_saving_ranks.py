"""Several processes save one checkpoint: the first writes it, all know how that went, all go on from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

WORLD = 2
Seen = tuple[Path, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("saving_rank.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PREHEAT_RANKS_TIMEOUT": "60"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, script, folder, str(WORLD)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return folder, [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in range(WORLD)]


@pytest.mark.parametrize("how", ["sharded", "beside", "replicated"])
def test_a_training_of_several_processes_goes_on_as_if_it_had_never_stopped(seen: Seen, how: str) -> None:
    folder, ranks = seen
    assert [rank[how] for rank in ranks] == [True] * WORLD
    checkpoint = folder / how / "checkpoints" / "model_cp=U3"
    averages = load_file(checkpoint.with_name("model_ema=0.5_cp=U3") / "model.safetensors")
    assert averages.keys() == load_file(checkpoint / "model.safetensors").keys()
    assert averages["0.weight"].shape == (33, 7)
    assert len(json.loads((checkpoint / "state.json").read_text())["random_states"]) == WORLD


def test_when_the_one_that_writes_fails_all_do(seen: Seen) -> None:
    first, second = (rank["failing"] for rank in seen[1])
    assert first.startswith("StorageError: writing to ")
    assert second.startswith("StorageError: rank 0: writing to ")


def test_all_stop_after_the_same_step_when_one_is_told_to(seen: Seen) -> None:
    assert [rank["terminated"] for rank in seen[1]] == [6, 6]
