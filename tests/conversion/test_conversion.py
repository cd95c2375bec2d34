import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import same
from safetensors.torch import load_file, save_file
from sources import s3_server
from sources.fault_server import FaultServer
from typer.testing import CliRunner

from preheat import convert_checkpoint
from preheat.cli import app
from preheat.convert import Convert
from preheat.errors import (
    CheckpointConfigError,
    CheckpointIncompatibleError,
    CheckpointValidationError,
    NoSpaceError,
    NothingMatchedError,
    StorageError,
)

torch.manual_seed(3)
WEIGHTS = {
    "module.encoder.weight": torch.randn(300, 200),
    "module.encoder.bias": torch.randn(300).bfloat16(),
    "module.turned": torch.randn(40, 30).t(),
    "head.weight": torch.randn(10, 20),
    "head.count": torch.arange(5),
    "scalar": torch.tensor(3.0, dtype=torch.float64),
    "empty": torch.zeros(0, 4),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    content = {
        "state_dict": {**WEIGHTS, "tied": WEIGHTS["head.weight"]},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.randn(1000)}}}],
        "epoch": 3,
        "pytorch-lightning_version": "2.6.6",
    }
    torch.save(content, tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "model.safetensors"


def alone(target: Path) -> bool:
    return list(target.parent.iterdir()) == [target]


def answer(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["convert", *map(str, arguments), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_the_weights_are_those_that_torch_reads(checkpoint: Path, target: Path) -> None:
    done = convert_checkpoint(checkpoint, target)
    found = load_file(target)
    assert found.keys() == WEIGHTS.keys()
    assert all(same(found[name], tensor) for name, tensor in WEIGHTS.items())
    assert done.aliases == {"tied": "head.weight"}
    assert (done.left_tensors, done.left_bytes) == (1, 4000)
    assert (done.tensors, done.output_bytes) == (7, target.stat().st_size)
    assert alone(target)


@pytest.mark.parametrize("kind", ["legacy", "safetensors", "module"])
def test_every_format_that_can_be_read_can_be_converted(kind: str, target: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    weights = {name: tensor.contiguous() for name, tensor in WEIGHTS.items()}
    if kind == "legacy":
        torch.save(weights, source, _use_new_zipfile_serialization=False)
    elif kind == "safetensors":
        save_file(weights, source)
    else:
        module = torch.nn.Linear(30, 20)
        weights = dict(module.state_dict())
        torch.save(module, source)
    convert_checkpoint(source, target)
    found = load_file(target)
    assert found.keys() == weights.keys()
    assert all(same(found[name], tensor) for name, tensor in weights.items())


def test_the_options_mean_what_the_stage_means(checkpoint: Path, target: Path) -> None:
    found = answer(
        *(checkpoint, target, "--select", "^module", "--select", "^head", "--exclude", "turned"),
        *("--strip-prefix", "module.", "--rename", "^encoder=>net", "--rename", r"(\w+)$=>\1_", "--add-prefix", "m."),
        *("--dtype", "float16"),
    )
    converted = load_file(target)
    assert set(converted) == {"m.net.weight_", "m.net.bias_", "m.head.weight_", "m.head.count_"}
    assert same(converted["m.net.weight_"], WEIGHTS["module.encoder.weight"].half())
    assert same(converted["m.head.count_"], WEIGHTS["head.count"])
    assert found["excluded"]["tensors"] == 4
    assert found["tensors"] == 4


def test_some_weights_have_another_dtype(checkpoint: Path, target: Path) -> None:
    answer(checkpoint, target, "--dtype", "bfloat16", "--dtype", "bias$=>float32", "--dtype", "^(head|tied)=>unchanged")
    found = load_file(target)
    assert found["module.encoder.weight"].dtype == torch.bfloat16
    assert same(found["module.encoder.bias"], WEIGHTS["module.encoder.bias"].float())
    assert same(found["head.weight"], WEIGHTS["head.weight"])


def test_a_bandwidth_is_kept(checkpoint: Path, target: Path) -> None:
    began = time.monotonic()
    answer(checkpoint, target, "--bandwidth", "1MB/s")
    assert time.monotonic() - began > 0.2  # of 250 kB
    assert "less than 1000000" in answer(checkpoint, target, "--force", "--bandwidth", "1kB/s", code=2)["message"]


def test_two_dtypes_for_all_weights_are_refused(checkpoint: Path, target: Path) -> None:
    said = answer(checkpoint, target, "--dtype", "bfloat16", "--dtype", "float16", code=2)
    assert "twice: bfloat16, float16" in said["message"]


def test_a_pattern_that_matches_nothing_is_an_error_and_leaves_nothing(checkpoint: Path, target: Path) -> None:
    with pytest.raises(NothingMatchedError, match="exclude 'encodr'"):
        convert_checkpoint(checkpoint, target, Convert(exclude=("encodr",)))
    with pytest.raises(CheckpointIncompatibleError, match="both become"):
        convert_checkpoint(checkpoint, target, Convert(rename=({"pattern": ".*", "replacement": "x"},)))  # type: ignore[arg-type]
    assert list(target.parent.iterdir()) == []


def test_urls_are_converted_and_what_is_left_out_does_not_travel(checkpoint: Path, target: Path) -> None:
    with FaultServer().running() as server:
        url = server.serve("/x.ckpt", checkpoint.read_bytes())
        found = answer(url, target, "--select", "^scalar$")
        assert found["fetchedBytes"] < checkpoint.stat().st_size / 2
        assert found["source"]["uri"] == url
    assert same(load_file(target)["scalar"], WEIGHTS["scalar"])


@pytest.mark.skipif(s3_server.executable() is None, reason="versitygw is not built; `make test` builds it")
def test_objects_in_s3_are_converted(
    checkpoint: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET_KEY)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    (tmp_path / "s3").mkdir()
    with s3_server.running(tmp_path / "s3") as endpoint:
        client = s3_server.client(endpoint)
        client.create_bucket(Bucket="models")
        client.upload_file(str(checkpoint), "models", "x.ckpt")
        answer("s3://models/x.ckpt", target, "--endpoint", endpoint, "--region", "us-east-1")
    assert load_file(target).keys() == WEIGHTS.keys()


def test_a_file_that_exists_stays_unless_forced(checkpoint: Path, target: Path) -> None:
    target.write_text("precious")
    failed = answer(checkpoint, target, code=50)
    assert failed["message"] == f"{target} exists"
    assert "--force" in failed["remedy"]
    assert target.read_text() == "precious"
    answer(checkpoint, target, "--force")
    assert load_file(target).keys() == WEIGHTS.keys()
    assert alone(target)


class Meddler:
    """Sees bytes pass, and puts a file where the output will be."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def start(self, total: int) -> None:
        self.target.write_text("precious")

    def advance(self, count: int) -> None:
        pass

    def finish(self) -> None:
        pass


def test_a_file_that_appears_meanwhile_stays_too(checkpoint: Path, target: Path) -> None:
    with pytest.raises(StorageError, match="exists"):
        convert_checkpoint(checkpoint, target, progress=Meddler(target))
    assert target.read_text() == "precious"
    assert alone(target)


def test_without_hard_links_it_works_as_well(checkpoint: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match="exists"):
        convert_checkpoint(checkpoint, target, progress=Meddler(target))
    target.unlink()
    convert_checkpoint(checkpoint, target)
    assert alone(target)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("model.pt", CheckpointConfigError, "does not end in .safetensors"),
        ("no/model.safetensors", StorageError, "there is no folder"),
        ("folder.safetensors", StorageError, "is a folder"),
    ],
)
def test_a_target_that_cannot_be_is_refused_before_a_byte_is_read(
    name: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(error, match=message):
        convert_checkpoint(tmp_path / "no-such.ckpt", tmp_path / name)


def test_what_is_damaged_is_not_converted(checkpoint: Path, target: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[content.index(WEIGHTS["head.weight"].numpy().tobytes()) + 100] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointValidationError, match=r"tensor '(head\.weight|tied)' is corrupt"):
        convert_checkpoint(checkpoint, target)
    assert list(target.parent.iterdir()) == []
    assert convert_checkpoint(checkpoint, target, crc32=False).records == 0


def test_values_have_to_be_finite_unless_told_otherwise(target: Path, tmp_path: Path) -> None:
    torch.save({"w": torch.tensor([1.0, float("nan")])}, tmp_path / "x.pt")
    assert answer(tmp_path / "x.pt", target, code=30)["reason"] == "Corrupt"
    answer(tmp_path / "x.pt", target, "--no-finite")
    assert load_file(target)["w"].isnan().tolist() == [False, True]


def test_the_whole_object_can_be_compared_with_its_checksum(checkpoint: Path, target: Path) -> None:
    with pytest.raises(CheckpointValidationError, match="SHA-256"):
        convert_checkpoint(checkpoint, target, sha256="0" * 64)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_file_may_be_read_by_those_whom_the_umask_lets(
    mask: int, mode: int, checkpoint: Path, target: Path
) -> None:
    before = os.umask(mask)
    try:
        convert_checkpoint(checkpoint, target)
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_a_person_reads_what_was_done(checkpoint: Path, target: Path) -> None:
    result = CliRunner().invoke(app, ["convert", str(checkpoint), str(target)], env={"COLUMNS": "200"})
    for said in ("torch-zip (lightning)", "tied = head.weight", "CRC-32, finite, sizes; 6 records", "1 tensor, "):
        assert said in result.stdout
    assert result.stdout.splitlines()[-1] == str(target)


def test_a_rule_without_an_arrow_is_refused(checkpoint: Path, target: Path) -> None:
    assert "has no =>" in answer(checkpoint, target, "--rename", "a", code=2)["message"]


KILLED = """
import os, signal, sys
left = int(sys.argv[3])
def heard(event, arguments):
    global left
    if event in {"open", "os.truncate", "os.link", "os.rename", "os.remove"} and "out" in str(arguments):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
from preheat import convert_checkpoint
sys.addaudithook(heard)
convert_checkpoint(sys.argv[1], sys.argv[2], force=sys.argv[4] == "force")
"""


@pytest.mark.parametrize("force", ["", "force"])
def test_killed_at_any_point_it_leaves_the_old_file_or_the_new_one(force: str, checkpoint: Path, target: Path) -> None:
    convert_checkpoint(checkpoint, target)
    whole = target.read_bytes()
    for at in range(1, 50):
        target.unlink()
        if force:
            target.write_text("old")
        command = [sys.executable, "-c", KILLED, str(checkpoint), str(target), str(at), force]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        if force or target.exists():
            assert target.read_bytes() in ((b"old", whole) if force else (whole,))
        convert_checkpoint(checkpoint, target, force=True)
        assert alone(target)  # what the killed one left is gone
        if done.returncode == 0:
            assert at > 3
            return
    raise AssertionError("it never ends")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder]).returncode:
        pytest.skip("may not mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_or_becomes_full_is_named_and_left_clean(checkpoint: Path, small_disk: Path) -> None:
    def fill() -> None:
        with (small_disk / "filler").open("wb", 0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    class Filler(Meddler):
        def start(self, total: int) -> None:
            fill()

    for progress in (Filler(small_disk), None):  # in the middle, and from the start
        with pytest.raises(NoSpaceError):
            convert_checkpoint(checkpoint, small_disk / "x.safetensors", progress=progress)
        assert [path.name for path in small_disk.iterdir()] == ["filler"]


LARGE = """
import re, sys
from preheat.cli import app
try:
    app(["convert", *sys.argv[1:]])
except SystemExit as ended:
    assert not ended.code, ended.code
print("PEAK", int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


def test_memory_does_not_grow_with_the_checkpoint(target: Path, tmp_path: Path) -> None:
    with torch.serialization.skip_data():
        torch.save({"w": torch.empty(1 << 25), "turned": torch.empty(1 << 11, 1 << 12).t()}, tmp_path / "large.pt")
    command = [sys.executable, "-c", LARGE, str(tmp_path / "large.pt"), str(target), "--dtype", "bfloat16"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split("PEAK")[1]) < 96  # MiB; the checkpoint has 160
