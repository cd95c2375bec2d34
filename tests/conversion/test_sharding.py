import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from formats.samples import same
from safetensors.torch import load_file
from typer.testing import CliRunner

from preheat import compare, convert_checkpoint
from preheat.cli import app
from preheat.convert import Convert
from preheat.errors import CheckpointConfigError, CheckpointValidationError, NoSpaceError, StorageError

WEIGHTS = {f"layers.{number}.weight": torch.randn(10, 100) for number in range(10)}  # 4,000 bytes each
LARGE = {"embedding": torch.randn(5000)}
EMPTY = {"empty": torch.zeros(0)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save({**WEIGHTS, **LARGE, **EMPTY, "tied": WEIGHTS["layers.3.weight"]}, tmp_path / "x.pt")
    return tmp_path / "x.pt"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "model.safetensors"


def names(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_shards_have_the_size_the_names_and_the_index_that_others_read(checkpoint: Path, target: Path) -> None:
    done = convert_checkpoint(checkpoint, target, shard_size=9000)
    assert names(target) == [*(f"model-{n:05}-of-00006.safetensors" for n in range(1, 7)), f"{target.name}.index.json"]
    index = json.loads(done.file.read_text())
    expected = {**WEIGHTS, **LARGE, **EMPTY}
    assert index["metadata"] == {"total_size": sum(tensor.nbytes for tensor in expected.values())}
    assert index["weight_map"].keys() == expected.keys()
    found = {shard.name: load_file(shard) for shard in done.shards}
    assert all(same(found[index["weight_map"][name]][name], tensor) for name, tensor in expected.items())
    sizes = [sum(tensor.nbytes for tensor in shard.values()) for shard in found.values()]
    assert sizes == [8000, 8000, 8000, 8000, 8000, 20_000]  # what is larger than a shard has one of its own
    assert done.aliases == {"tied": "layers.3.weight"}
    assert done.output_bytes == sum(shard.stat().st_size for shard in done.shards)


def test_preheat_reads_its_own_shards(checkpoint: Path, target: Path) -> None:
    one = convert_checkpoint(checkpoint, target.with_name("one.safetensors"))
    several = convert_checkpoint(checkpoint, target, shard_size=9000)
    assert compare(one.file, several.file, values=True).equal


def test_what_fits_into_one_is_one_file(checkpoint: Path, target: Path) -> None:
    done = convert_checkpoint(checkpoint, target, shard_size=60_000)
    assert (names(target), done.shards, done.file) == ([target.name], (), target)


def test_the_size_counts_what_is_written(checkpoint: Path, target: Path) -> None:
    arguments = ["convert", str(checkpoint), str(target), "--shard-size", "20kB", "--dtype", "bfloat16", "--json"]
    result = CliRunner().invoke(app, arguments)
    answer = json.loads(result.stdout)
    assert (len(answer["shards"]), answer["file"]) == (2, f"{target}.index.json")
    assert CliRunner().invoke(app, [*arguments[:4], "0"]).exit_code == 2


def test_every_check_is_made(checkpoint: Path, target: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[content.index(WEIGHTS["layers.9.weight"].numpy().tobytes()) + 7] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointValidationError, match=r"layers\.9\.weight"):
        convert_checkpoint(checkpoint, target, shard_size=9000)
    with pytest.raises(CheckpointValidationError, match="SHA-256"):
        convert_checkpoint(checkpoint, target, shard_size=9000, sha256="0" * 64)
    assert names(target) == []
    with pytest.raises(CheckpointConfigError, match="hold nothing"):
        convert_checkpoint(checkpoint, target, shard_size=0)


def test_the_whole_object_passes_once(checkpoint: Path, target: Path) -> None:
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    done = convert_checkpoint(checkpoint, target, shard_size=33_000, sha256=digest.upper())
    assert len(done.shards) == 2
    assert done.fetched_bytes < 2.5 * checkpoint.stat().st_size


@pytest.mark.parametrize(
    "there", ["model-00003-of-00006.safetensors", "model.safetensors.index.json", "model.safetensors"]
)
def test_no_file_is_replaced_unless_forced(there: str, checkpoint: Path, target: Path) -> None:
    (target.parent / there).write_text("precious")
    with pytest.raises(StorageError, match=f"{there} exists"):
        convert_checkpoint(checkpoint, target, shard_size=9000)
    assert names(target) == [there]
    convert_checkpoint(checkpoint, target, shard_size=9000, force=True)
    assert len(names(target)) == 7  # a file under the plain name would be taken before the index


def test_a_volume_that_cannot_hold_all_of_them_gets_none(
    checkpoint: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small:
        f_bavail, f_frsize = 2 * 1024 * 1024 + 30_000, 1

    monkeypatch.setattr(os, "statvfs", lambda path: Small)
    with pytest.raises(NoSpaceError):
        convert_checkpoint(checkpoint, target, shard_size=9000)
    assert names(target) == []


KILLED = """
import os, signal, sys
left = int(sys.argv[3])
def heard(event, arguments):
    global left
    if event in {"open", "os.link", "os.rename", "os.remove"} and "out" in str(arguments):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
from preheat import convert_checkpoint
sys.addaudithook(heard)
convert_checkpoint(sys.argv[1], sys.argv[2], shard_size=21000, force=True)
"""


def test_killed_at_any_point_an_index_is_of_whole_shards(checkpoint: Path, target: Path) -> None:
    for at in range(1, 60):
        done = convert_checkpoint(checkpoint, target, Convert(dtype="float16"), shard_size=10_500, force=True)
        assert len(done.shards) == 3
        command = [sys.executable, "-c", KILLED, str(checkpoint), str(target), str(at)]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
        if done.file.exists():
            index = json.loads(done.file.read_text())
            shards = {file: load_file(target.parent / file) for file in set(index["weight_map"].values())}
            assert len({shards[file][name].dtype for name, file in index["weight_map"].items()}) == 1
        if ended.returncode == 0:
            assert at > 8
            return
    raise AssertionError("it never ends")
