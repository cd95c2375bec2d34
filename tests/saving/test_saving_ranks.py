"""Several processes save one checkpoint: the first writes it, all know how that went, all go on from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

from preheat.bundle.data import open_bundle
from preheat.errors import CheckpointError, NotABundleError
from preheat.sources.local import LocalSource
from preheat.verbs.verification import verify_checkpoint

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


@pytest.mark.parametrize("how", ["shards", "shards beside"])
def test_each_process_writes_what_it_has_and_any_number_goes_on_from_it(seen: Seen, how: str) -> None:
    folder, ranks = seen
    assert [rank[how] for rank in ranks] == [True] * WORLD
    checkpoint = folder / how / "checkpoints" / "model_cp=U3"
    names = {f"shard-0000{rank}-{kind}-00001-of-00001.safetensors" for rank in (1, 2) for kind in ("model", "state")}
    assert {path.name for path in checkpoint.iterdir()} == {*names, "manifest.json", "state.json"}
    sizes = [(checkpoint / f"shard-0000{rank}-model-00001-of-00001.safetensors").stat().st_size for rank in (1, 2)]
    assert sizes[0] < 2 * sizes[1]
    wanted = load_file(folder / "sharded" / "checkpoints" / "model_cp=U3" / "model.safetensors")
    for read in (read_by_preheat(checkpoint), read_by_torch(checkpoint, wanted)):
        assert read.keys() == wanted.keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in wanted.items())
    assert verify_checkpoint(LocalSource(str(checkpoint))).records >= 3 * 2 * len(wanted)  # and two moments of each
    data = open_bundle(checkpoint)
    state = data.training_state()
    assert state is not None
    moments = state.read(state.tree["optimizer"]["state"])
    assert {tuple(each["exp_avg"].shape) for each in moments.values()} == {(33, 7), (33,), (5, 33), (5,)}
    state.close()
    data.close()


def read_by_preheat(checkpoint: Path) -> dict[str, torch.Tensor]:
    data = open_bundle(checkpoint)
    try:
        return dict(data.state_dict)
    finally:
        data.close()


def read_by_torch(checkpoint: Path, like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By torch.distributed.checkpoint's own reader, which takes a folder of nothing but shards."""
    state = {name: torch.empty_like(tensor) for name, tensor in like.items()}
    dcp.load(state, storage_reader=dcp.HuggingFaceStorageReader(str(checkpoint)), no_dist=True)
    return state


def test_a_shard_that_is_damaged_or_gone_is_refused(seen: Seen, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(seen[0] / "shards" / "checkpoints" / "model_cp=U3", tmp_path / "damaged")
    shard = checkpoint / "shard-00002-model-00001-of-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CheckpointError, match="is corrupt: record 'shard-00002-model"):
        verify_checkpoint(LocalSource(str(checkpoint)))
    shard.unlink()
    with pytest.raises(CheckpointError, match="shard-00002-model"):
        verify_checkpoint(LocalSource(str(checkpoint)))
    with pytest.raises(NotABundleError, match="is not a complete bundle"):
        open_bundle(checkpoint)


def test_when_one_cannot_write_its_shard_all_fail_and_nothing_is_left(seen: Seen) -> None:
    folder, ranks = seen
    for rank, prefix in enumerate(("rank 1: ", "")):
        for said in ranks[rank]["shards failing"]:
            assert said.startswith(f"StorageError: {prefix}writing to ")
            assert "File too large" in said
    assert not list((folder / "shards failing" / "checkpoints").iterdir())


def test_what_groups_of_processes_have_alike_is_written_by_one_of_them(seen: Seen) -> None:
    checkpoint = Path(seen[1][0]["shards by groups"])
    assert len(list(checkpoint.glob("shard-*"))) == 1
    assert torch.equal(read_by_preheat(checkpoint)["weight"], torch.arange(12.0).reshape(4, 3))


def test_what_the_first_process_has_no_part_in_is_refused_when_it_is_saved(seen: Seen) -> None:
    folder, ranks = seen
    assert all("is in none of the groups" in rank["shards without the first"] for rank in ranks)
    assert not list((folder / "shards without the first" / "checkpoints").iterdir())


def test_shards_of_different_tensors_are_refused(seen: Seen) -> None:
    for rank in seen[1]:
        assert "the ranks differ in the tensors: rank 0 has 4 tensors" in rank["shards differing"]


def test_when_the_one_that_writes_fails_all_do(seen: Seen) -> None:
    first, second = (rank["failing"] for rank in seen[1])
    assert first.startswith("StorageError: writing to ")
    assert second.startswith("StorageError: rank 0: writing to ")


def test_all_stop_after_the_same_step_when_one_is_told_to(seen: Seen) -> None:
    assert [rank["terminated"] for rank in seen[1]] == [6, 6]
