import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import BytesBlob, same, saved
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from loader.loader_process import bundles, load
from safetensors.torch import load_file
from sources.fault_server import FaultServer

from preheat.blob import Blob, Patience
from preheat.checks import Checks
from preheat.errors import CheckpointValidationError, NoSpaceError, StorageError, TruncatedError
from preheat.file_blob import FileBlob
from preheat.formats import read_index
from preheat.index import ITEMSIZE
from preheat.plan import make_plan
from preheat.sources.http_blob import HttpBlob
from preheat.spec import parse
from preheat.transfer import engine, gather
from preheat.transfer.checksum import _combine, crc32
from preheat.transfer.engine import Transferred
from preheat.transfer.pace import Pace

SHARED = torch.arange(40_000, dtype=torch.float32)
CASES: Mapping[str, Mapping[str, torch.Tensor]] = {
    "plain": {"a": torch.randn(1000, 7), "b": torch.randn(13), "scalar": torch.tensor(3.5)},
    "empty": {"nothing": torch.empty(0, 4), "something": torch.randn(3)},
    "tied": {"head": SHARED, "embedding": SHARED},
    "overlapping": {"low": SHARED[:30_000], "high": SHARED[9_999:], "all": SHARED},
    "transposed": {"t": torch.randn(300, 200).t(), "plain": torch.randn(5)},
    "channels last": {"c": torch.randn(4, 3, 17, 19).to(memory_format=torch.channels_last)},
    "expanded": {"e": torch.randn(300, 1).expand(300, 50), "s": torch.tensor(2.0).expand(4, 4)},
    "every second": {"x": torch.arange(20_000)[::2], "y": torch.randn(64, 64)[3:60, 5:50]},
    "narrow": {"b": torch.randint(0, 2, (999,)).bool(), "i": torch.randint(-9, 9, (77,)).to(torch.int8)},
    "dtypes": {
        str(dtype): torch.randn(501).to(dtype)
        for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)
    }
    | {"complex": torch.randn(33, dtype=torch.complex64)},
}


@pytest.fixture(params=["one cut", "many cuts"])
def cuts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many cuts":
        monkeypatch.setattr(engine, "LOCAL", Pace(3, 1000, 4096))
        monkeypatch.setattr(engine, "REMOTE", Pace(3, 1001, 4096))
        monkeypatch.setattr(gather, "BLOCK", 5000)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str, bytes], Blob]]:
    with FaultServer().running() as server:
        blobs: list[Blob] = []

        def opener(kind: str, content: bytes) -> Blob:
            if kind == "http":
                url = server.serve("/model", content)
                blobs.append(HttpBlob(url, uri=url, headers={}, patience=Patience(0, 10)))
            else:
                (tmp_path / "source").write_bytes(content)
                blobs.append(FileBlob(tmp_path / "source"))
            return blobs[-1]

        yield opener
        for blob in blobs:
            blob.close()


def execute(blob: Blob, path: Path, checks: Checks) -> tuple[Transferred, dict[str, torch.Tensor]]:
    verify = {"crc32": checks.crc32, "finite": checks.finite} | ({"sha256": checks.sha256} if checks.sha256 else {})
    spec = parse({"stages": [{"local": {"path": "x"}}, {"verify": verify}, {"weightsOnly": {}}]})
    plan = make_plan(read_index(blob), spec)
    passed: list[int] = []
    done = engine.transfer(plan, blob, path, checks, passed.append)
    found = load_file(path)
    return done, found | {alias: found[name] for alias, name in plan.aliases.items()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("kind", "mode"), [("file", "crc"), ("file", "nothing"), ("file", "everything"), ("http", "crc")]
)
@pytest.mark.usefixtures("cuts")
def test_every_tensor_arrives_bit_by_bit(
    case: str, kind: str, mode: str, opened: Callable[[str, bytes], Blob], tmp_path: Path
) -> None:
    content = saved({"state_dict": dict(CASES[case]), "optimizer_states": [torch.randn(5000)]})
    digest = hashlib.sha256(content).hexdigest()
    checks = {"crc": Checks(), "nothing": Checks(crc32=False), "everything": Checks(digest, True, True)}[mode]
    done, found = execute(opened(kind, content), tmp_path / "out", checks)
    expected = torch.load(io.BytesIO(content), weights_only=True)["state_dict"]
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert same(found[name], tensor), name
    for name, checksum in done.checksums.items():
        assert checksum == crc32(found[name].reshape(-1).view(torch.uint8).numpy().tobytes()), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.usefixtures("cuts")
def test_nan_and_infinity_are_found_wherever_they_are(dtype: str, value: str, tmp_path: Path) -> None:
    if dtype == "float8_e4m3fn" and value != "nan":
        pytest.skip("this dtype has no infinity")
    for position in (0, 1, 998, 3000):
        tensor = torch.randn(3001).to(getattr(torch, dtype))
        tensor[position] = float(value)
        with pytest.raises(CheckpointValidationError, match="'w' holds NaN or infinity"):
            execute(BytesBlob(saved({"v": torch.ones(3), "w": tensor})), tmp_path / str(position), Checks(finite=True))


def test_the_largest_finite_values_pass(tmp_path: Path) -> None:
    dtypes = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)
    tensors = {
        str(d): torch.tensor([torch.finfo(d).max, torch.finfo(d).min, 0.0], dtype=torch.float64).to(d) for d in dtypes
    }
    execute(BytesBlob(saved(tensors)), tmp_path / "out", Checks(finite=True))


def test_infinity_in_a_strided_tensor_is_found(tmp_path: Path) -> None:
    tensor = torch.randn(30, 20).t()
    tensor[3, 4] = torch.inf
    with pytest.raises(CheckpointValidationError, match="'w' holds NaN or infinity"):
        execute(BytesBlob(saved({"w": tensor})), tmp_path / "out", Checks(finite=True))


@pytest.mark.usefixtures("cuts")
def test_any_flipped_bit_of_a_tensor_is_found(tmp_path: Path) -> None:
    content = saved({"state_dict": {"first": torch.randn(2000), "second": torch.randn(50, 50).t()}})
    index = read_index(BytesBlob(content))
    for number, (name, tensor) in enumerate(index.tensors.items()):
        for position in (tensor.record.start, tensor.record.start + 4095, tensor.record.stop - 1):
            broken = bytearray(content)
            broken[position] ^= 4
            with pytest.raises(CheckpointValidationError, match=f"tensor '{name}' is corrupt: record .*CRC-32"):
                execute(BytesBlob(bytes(broken)), tmp_path / f"{number}-{position}", Checks())


def test_a_wrong_digest_of_the_whole_object_is_named(tmp_path: Path) -> None:
    content = saved({"w": torch.ones(3)})
    with pytest.raises(CheckpointValidationError, match=hashlib.sha256(content).hexdigest()):
        execute(BytesBlob(content), tmp_path / "out", Checks(sha256="0" * 64))


class Shrunk(BytesBlob):
    """Ends earlier than it said, as a file does that is truncated while it is read."""

    def stream(self, start: int, stop: int, buffer: memoryview) -> Iterator[memoryview]:
        raise TruncatedError(f"no bytes {start}...{stop}")


def test_a_source_that_ends_early_stops_all_threads(tmp_path: Path) -> None:
    blob = Shrunk(saved({f"w{n}": torch.ones(1000) for n in range(20)}))
    with pytest.raises(TruncatedError):
        execute(blob, tmp_path / "out", Checks())


def test_missing_bytes_are_named_with_their_tensor(tmp_path: Path) -> None:
    blob = BytesBlob(saved({"w": torch.ones(1000)}))
    spec = parse({"stages": [{"local": {"path": "x"}}, {"weightsOnly": {}}]})
    plan = make_plan(read_index(blob), spec)
    blob.content = blob.content[:2000]
    with pytest.raises(TruncatedError, match=r"tensor 'w' needs bytes \d+\.\.\.\d+; the file ends at 2000"):
        engine.transfer(plan, blob, tmp_path / "out", Checks())


def test_too_little_space_is_told_before_a_byte_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preheat.bundle.storage.RESERVE", 1 << 60)
    with pytest.raises(NoSpaceError, match=r"has .* free and needs"):
        execute(BytesBlob(saved({"w": torch.ones(3)})), tmp_path / "out", Checks())
    assert not (tmp_path / "out").exists()


def test_an_existing_file_or_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "out").symlink_to(tmp_path / "victim")
    with pytest.raises(StorageError):
        execute(BytesBlob(saved({"w": torch.ones(3)})), tmp_path / "out", Checks())
    assert (tmp_path / "victim").read_text() == "precious"


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_checksums_of_neighbours_combine(first: bytes, second: bytes) -> None:
    assert _combine(crc32(first), crc32(second), len(second)) == crc32(first + second)


def strided_tensors() -> st.SearchStrategy[torch.Tensor]:
    def build(shape: list[int], order: Any, step: int, dtype: torch.dtype) -> torch.Tensor:
        base = torch.arange(1, 1 + torch.Size(shape).numel() * step).to(dtype)[::step].reshape(shape)
        return base.permute(tuple(order)) if step == 1 else base

    shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4)
    dtypes = st.sampled_from([torch.int8, torch.float16, torch.float32, torch.int64])
    return shapes.flatmap(
        lambda shape: st.builds(build, st.just(shape), st.permutations(range(len(shape))), st.integers(1, 3), dtypes)
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(tensor=strided_tensors(), block=st.integers(8, 400))
def test_any_strided_tensor_is_gathered(tensor: torch.Tensor, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "BLOCK", block)
    blob = BytesBlob(saved({"w": tensor}))
    described = read_index(blob).tensors["w"]
    assume(described.strides is not None)
    result, seen = bytearray(described.size), 0
    for offset, run in gather.gather(blob, described):
        result[offset : offset + len(run)] = run
        seen += len(run)
    assert seen == tensor.numel() * ITEMSIZE[described.dtype]
    assert bytes(result) == tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_a_small_file_of_many_overlapping_tensors_is_refused(tmp_path: Path) -> None:
    base = torch.zeros(1000)
    content = saved({f"w{number}": base[number:] for number in range(500)})
    (tmp_path / "hostile.pt").write_bytes(content)
    ended = load([{"local": {"path": str(tmp_path / "hostile.pt")}}, {"weightsOnly": {}}], tmp_path / "volume")
    assert (ended.code, ended.message["reason"]) == (30, "Corrupt")
    assert "share byte" in ended.message["message"]
    assert bundles(tmp_path / "volume") == []
