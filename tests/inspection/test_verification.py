import hashlib
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sources.fault_server import FaultServer

from preheat.errors import CheckpointConfigError, CheckpointLoadError, CheckpointValidationError
from preheat.transfer import engine
from preheat.transfer.pace import Pace
from preheat.verbs.digest import ALGORITHMS, calculate_checksum
from preheat.verbs.inspection import inspect
from preheat.verbs.verification import verify_checkpoint


@pytest.fixture(params=["one cut", "many cuts"], autouse=True)
def cuts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many cuts":
        for pace in ("LOCAL", "REMOTE"):
            monkeypatch.setattr(f"preheat.verbs.verification.{pace}", Pace(3, 1000, 4096))
    assert engine.LOCAL.threads == 2  # the transfer's own is left alone


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        yield running


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    weights = {"a": torch.randn(3000), "t": torch.randn(60, 50).t(), "b": torch.randn(77).bfloat16()}
    state = [{"state": {0: {"exp_avg": torch.randn(4000)}}}]
    torch.save({"state_dict": weights, "optimizer_states": state, "best": torch.tensor(math.inf)}, tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_a_good_checkpoint_passes_with_all_its_records(checkpoint: Path, server: FaultServer) -> None:
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    for where in (checkpoint, server.serve("/x.ckpt", checkpoint.read_bytes())):
        found = verify_checkpoint(where)
        assert (found.tensors, found.records) == (5, 5)
        assert verify_checkpoint(where, sha256=digest.upper()).checks.sha256 == digest


def test_a_flipped_bit_is_found_in_weights_and_in_the_optimizers_state(checkpoint: Path) -> None:
    found = inspect(checkpoint)
    flip(checkpoint, found.tensors["a"].start + 5000)
    with pytest.raises(CheckpointValidationError, match=r"x\.ckpt: tensor 'a' is corrupt"):
        verify_checkpoint(checkpoint)
    flip(checkpoint, found.tensors["a"].start + 5000)
    content = checkpoint.read_bytes()
    moments = torch.load(checkpoint, weights_only=True)["optimizer_states"][0]["state"][0]["exp_avg"]
    flip(checkpoint, content.index(moments.numpy().tobytes()) + 9000)
    with pytest.raises(
        CheckpointValidationError, match=r"tensor 'optimizer_states\[0\]\.state\.0\.exp_avg' is corrupt"
    ):
        verify_checkpoint(checkpoint)


def test_a_wrong_digest_names_both(checkpoint: Path) -> None:
    with pytest.raises(CheckpointValidationError, match=f"has SHA-256 .*, verify expects {'0' * 64}"):
        verify_checkpoint(checkpoint, sha256="0" * 64)
    with pytest.raises(CheckpointConfigError, match="sha256"):
        verify_checkpoint(checkpoint, sha256="123")


@pytest.mark.parametrize("strided", [False, True])
def test_weights_have_to_be_finite_unless_told_otherwise(strided: bool, tmp_path: Path) -> None:
    values = torch.randn(40, 50)
    values[3, 7] = math.nan
    torch.save({"w": values.t() if strided else values}, tmp_path / "x.pt")
    with pytest.raises(CheckpointValidationError, match="'w' holds NaN"):
        verify_checkpoint(tmp_path / "x.pt")
    assert verify_checkpoint(tmp_path / "x.pt", finite=False).tensors == 1


def test_values_that_a_view_skips_may_be_anything(tmp_path: Path) -> None:
    values = torch.randn(100)
    values[1::2] = math.nan
    torch.save({"w": values[::2]}, tmp_path / "x.pt")
    assert verify_checkpoint(tmp_path / "x.pt").records == 1


def test_safetensors_are_verified_by_sizes_and_values(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.randn(5000)}, path)
    found = verify_checkpoint(path)
    assert (found.records, found.checks.crc32, found.checks.finite) == (0, False, True)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointLoadError, match="ends at byte"):
        verify_checkpoint(path)


def test_a_server_that_flips_a_bit_is_found_out(checkpoint: Path, server: FaultServer) -> None:
    start = inspect(checkpoint).tensors["a"].start
    server.always(flip=start + 40)
    with pytest.raises(CheckpointValidationError, match="'a' is corrupt"):
        verify_checkpoint(server.serve("/x.ckpt", checkpoint.read_bytes()))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_checksums_are_those_of_the_standard_library(algorithm: str, checkpoint: Path, server: FaultServer) -> None:
    content = checkpoint.read_bytes()
    if algorithm == "crc64nvme":
        pytest.skip("which has none")
    expected = f"{zlib.crc32(content):08x}" if algorithm == "crc32" else hashlib.new(algorithm, content).hexdigest()
    assert calculate_checksum(checkpoint, algorithm) == expected
    assert calculate_checksum(server.serve("/x", content), algorithm) == expected


def test_the_checksum_that_s3_shows_is_that_of_the_catalogue_of_crcs(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"123456789")
    assert calculate_checksum(tmp_path / "x", "crc64nvme") == "ae8b14860a799888"


def test_files_of_before_zip_and_whole_modules_are_verified(tmp_path: Path) -> None:
    weights = {"w": torch.randn(5000), "b": torch.randn(7)}
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    found = verify_checkpoint(tmp_path / "old.pt")
    assert (found.tensors, found.records) == (2, 0)  # the format carries no checksums
    torch.save(torch.nn.Linear(30, 20), tmp_path / "module.pt")
    assert verify_checkpoint(tmp_path / "module.pt").records == 2
