"""Files of torch before 1.6, read without torch and compared with what torch itself reads."""

from __future__ import annotations

import contextlib
import io
import pickle
import random
import struct
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import (
    BytesBlob,
    Call,
    assert_equals,
    index_of,
    read_by_preheat,
    same,
    saved_before_1_6,
    value_of,
)
from formats.test_inert_pickle import BOMBS, canaries
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preheat.errors import CheckpointError, CheckpointLoadError, TruncatedError, UnsupportedFormatError
from preheat.formats import read_index
from preheat.formats.pytorch.legacy import MAGIC, MAX_COUNTS, PROTOCOL
from preheat.formats.pytorch.tensors import DTYPES
from preheat.index import Index

MACHINE = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
# It writes and cannot read them.
UNREADABLE_BY_TORCH = {"uint16", "uint32", "uint64", *(name for name in DTYPES if name.startswith("float8"))}


def values(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    count = torch.Size(shape).numel()
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (max(1, count) * dtype.itemsize,), dtype=torch.uint8)
    return raw.view(dtype)[:count].reshape(shape)


def assert_equals_torch(content: bytes, folder: Path) -> Index:
    """Preheat's reading of bytes, and what `preheat.bundle.data` gives of a file, are what torch.load gives."""
    expected = torch.load(io.BytesIO(content), weights_only=True)
    found = read_by_preheat(content, folder)
    assert list(found) == list(expected)
    assert all(same(found[name], expected[name]) for name in expected)
    return assert_equals(content, expected)


class _Saver(pickle._Pickler):  # the Python version, which lets a test refer to what it likes
    def persistent_id(self, value: Any) -> Any:
        return value.identity if isinstance(value, Reference) else None


class Reference:
    """Something outside of the pickle."""

    def __init__(self, *identity: Any) -> None:
        self.identity = identity


def floats(key: str = "k", elements: Any = 4, view: Any = None, kind: Any = torch.FloatStorage) -> Reference:
    return Reference("storage", kind, key, "cpu", elements, view)


def tensor(storage: Reference, shape: tuple[int, ...] = (4,), offset: int = 0) -> Call:
    from torch._utils import _rebuild_tensor_v2

    return Call(_rebuild_tensor_v2, (storage, offset, shape, (1,), False, OrderedDict()))


def written(
    tree: Any, keys: Any = ("k",), storages: Mapping[int, bytes] | bytes | None = None, *, machine: Any = MACHINE,
    magic: int = MAGIC, version: int = PROTOCOL, protocol: int = 2,
) -> bytes:  # fmt: skip
    """A file of a test's own; `storages` are all the bytes after the keys."""
    buffer = io.BytesIO()
    for value in (magic, version, machine, tree, list(keys) if isinstance(keys, tuple) else keys):
        _Saver(buffer, protocol).dump(value)
    return buffer.getvalue() + (counted(torch.arange(4.0)) if storages is None else storages)


def counted(*tensors: torch.Tensor) -> bytes:
    return b"".join(struct.pack("<q", each.numel()) + each.numpy().tobytes() for each in tensors)


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read_as_torch_wrote_it(dtype: str, protocol: int, tmp_path: Path) -> None:
    tree = {"w": values(getattr(torch, dtype), 3, 5), "scalar": values(getattr(torch, dtype))}
    content = saved_before_1_6(tree, pickle_protocol=protocol)
    index = assert_equals(content, tree)
    assert (index.format, index.layout) == ("torch-legacy", "raw")
    if protocol in (2, 3) and dtype not in UNREADABLE_BY_TORCH:
        assert_equals_torch(content, tmp_path)


def test_views_ties_parameters_and_empties_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    base = torch.randn(6, 8)
    tree = {
        "base": base, "rows": base[2:4], "transposed": base.t(), "strided": base[::2, 1::3], "tied": base,
        "expanded": torch.randn(3, 1).expand(3, 5), "empty": torch.empty(0, 3), "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(base),
        "last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    }  # fmt: skip
    index = assert_equals_torch(saved_before_1_6(tree), tmp_path)
    assert index.tensors["base"] == index.tensors["tied"] == index.tensors["parameter"]


def test_state_beside_the_weights_is_kept() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = saved_before_1_6({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3})
    index = assert_equals(content, model.state_dict())
    assert (index.layout, index.state["epoch"], len(list(index.state_tensors()))) == ("state_dict", 3, 6)
    moment = index.state["optimizer"]["state"][0]["exp_avg"]
    assert same(value_of(content, moment), optimizer.state_dict()["state"][0]["exp_avg"])


def test_storages_that_are_views_of_others_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    tree = {"whole": tensor(floats()), "part": tensor(floats(view=("part", 1, 2)), (2,))}
    index = assert_equals_torch(written(tree), tmp_path)
    assert index.tensors["part"].start == index.tensors["whole"].start + 4


def test_no_payload_is_read_and_pickles_are_read_in_chunks() -> None:
    tree = {"state_dict": {f"layers.{number}.weight": torch.zeros(4000) for number in range(600)}}
    blob = BytesBlob(saved_before_1_6(tree))
    index = read_index(blob)
    pickles = min(each.record.start for each in index.tensors.values())
    assert pickles > 64 * 1024
    assert blob.fetched == index.metadata_bytes <= pickles + 64 * 1024
    assert len(blob.reads) <= 8 + MAX_COUNTS
    assert blob.fetched < blob.size / 50


def test_a_large_pickle_is_read_where_it_is_cut_between_chunks(tmp_path: Path) -> None:
    names = [f"{number}." + "x" * random.Random(number).randrange(900) for number in range(400)]
    tree = {name: torch.full((1,), float(number)) for number, name in enumerate(names)}
    assert_equals_torch(saved_before_1_6(tree), tmp_path)
    notes = {"w": torch.ones(20_000), "_extra_state": "n" * 500_000}
    assert index_of(saved_before_1_6(notes)).state["_extra_state"] == notes["_extra_state"]


def test_a_large_file_has_some_counts_compared() -> None:
    content = bytearray(saved_before_1_6({"a": torch.zeros(40_000), "b": torch.ones(40_000)}))
    index = index_of(bytes(content))
    content[index.tensors["b"].record.start - 8] ^= 1
    with pytest.raises(CheckpointError, match=r"declares 40000 elements; at byte .* the file says 40001"):
        index_of(bytes(content))


sizes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
tensors = st.builds(
    lambda dtype, shape: values(getattr(torch, dtype), *shape),
    st.sampled_from(sorted(DTYPES.keys() - UNREADABLE_BY_TORCH)), sizes,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(weights=st.dictionaries(st.text(), tensors, min_size=1, max_size=5), protocol=st.integers(2, 3))
def test_any_state_dict_is_read_as_torch_reads_it(
    weights: dict[str, torch.Tensor], protocol: int, tmp_path: Path
) -> None:
    assert_equals_torch(saved_before_1_6(weights, pickle_protocol=protocol), tmp_path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_views_of_one_storage_are_read_as_torch_reads_them(data: st.DataObject) -> None:
    base = torch.randn(5, 6)
    cut = st.tuples(st.integers(0, 5), st.integers(1, 6), st.integers(1, 3)).map(lambda bounds: slice(*bounds))
    views = {str(n): base[data.draw(cut), data.draw(cut)] for n in range(3)} | {"t": base.t()[data.draw(cut)]}
    content = saved_before_1_6(views)
    assert_equals(content, torch.load(io.BytesIO(content), weights_only=True))


@pytest.fixture(scope="module")
def small() -> bytes:
    tied = torch.randn(4)
    return saved_before_1_6({"state_dict": {"a": tied, "b": tied[1:3], "c": torch.randn(3)}, "epoch": 3})


def test_every_truncation_says_which_bytes_are_missing(small: bytes) -> None:
    for length in range(32, len(small)):
        with pytest.raises(
            TruncatedError, match=rf"ends at byte {length}.*bytes {length}\.\.\.\d+ are missing|inside a line"
        ):
            index_of(small[:length])
    for length in range(32):  # too short to be told from other files
        with pytest.raises(CheckpointLoadError):
            index_of(small[:length])


def test_a_truncated_large_file_names_the_storage() -> None:
    content = saved_before_1_6({"a": torch.zeros(40_000), "b": torch.ones(40_000)})
    with pytest.raises(TruncatedError, match=rf"in storage '\d+'; bytes 200000\.\.\.{len(content)} are missing"):
        index_of(content[:200_000])


def test_every_flipped_bit_of_the_metadata_is_an_error_or_harmless(small: bytes) -> None:
    good = index_of(small)
    payload = {at for each in good.tensors.values() for at in range(each.record.start, each.record.stop)}
    changed = []
    for position in sorted(set(range(len(small))) - payload):
        for bit in range(8):
            damaged = bytearray(small)
            damaged[position] ^= 1 << bit
            with contextlib.suppress(CheckpointError):
                if facts(index_of(bytes(damaged))) != facts(good):
                    changed.append((position, bit))
    assert_read_as_torch_reads(small, changed)


def facts(index: Index) -> Any:
    return {name: (each.dtype, each.shape, each.start, each.strides) for name, each in index.tensors.items()}


def assert_read_as_torch_reads(content: bytes, flips: list[tuple[int, int]]) -> None:
    """A flip in a name, a shape or an offset gives another valid file: it is read as torch reads it."""
    for position, bit in flips:
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        expected = torch.load(io.BytesIO(damaged), weights_only=True)
        assert_equals(bytes(damaged), expected.get("state_dict", expected))


FLAWS = {
    "twice": (written({"w": tensor(floats())}, ("k", "k")), "in the file twice"),
    "not there": (written({"w": tensor(floats())}, ()), "'k', which is not in the file"),
    "of nothing": (written({"w": tensor(floats())}, ("k", "x")), "'x' belongs to no tensor"),
    "no keys": (written({"w": tensor(floats())}, 3), "not a list of keys"),
    "numbers": (written({"w": tensor(floats())}, [1]), "not a list of keys"),
    "trailing": (written({"w": tensor(floats())}) + b"more", "4 bytes follow the last storage"),
    "count": (written({"w": tensor(floats(elements=3), (3,))}), "declares 3 elements; at byte .* the file says 4"),
    "negative": (written({"w": tensor(floats(elements=-4))}), "no number of elements"),
    "huge": (written({"w": tensor(floats(elements=1 << 62))}), "declares 4611686018427387904 elements"),
    "sizes": (written({"a": tensor(floats()), "b": tensor(floats(elements=2), (2,))}), "declares 2 elements"),
    "unknown": (written({"w": tensor(floats(kind=torch.Tensor))}), "of unknown size"),
    "no type": (written({"w": tensor(floats(kind=OrderedDict))}), "no type of torch's"),
    "outside": (written({"w": tensor(floats(), (5,))}), "'w' points outside its storage"),
    "view outside": (written({"w": tensor(floats(view=("v", 2, 3)), (3,))}), "'v' reaches outside storage 'k'"),
    "view before": (written({"w": tensor(floats(view=("v", -1, 2)), (2,))}), "'v' reaches outside storage 'k'"),
    "tensor outside view": (written({"w": tensor(floats(view=("v", 0, 2)), (3,))}), "'w' points outside"),
    "view of no shape": (written({"w": tensor(floats(view=("v", 0)))}), "no key, offset and length"),
    "view of itself": (written({"w": tensor(floats(view=("k", 0, 2)), (2,))}), "described twice"),
    "two views": (
        written({"a": tensor(floats(view=("v", 0, 2)), (2,)), "b": tensor(floats(view=("v", 1, 2)), (2,))}),
        "described twice",
    ),
    "view first": (
        written({"a": tensor(floats(view=("v", 0, 4))), "b": tensor(floats("v"))}, ("k", "v")), "a view of another"
    ),
    "reference": (written({"w": Reference("file", "/etc/passwd")}), "no storage: 'file' of 2 parts"),
    "magic": (written({}, version=1002), "no known version"),
    "big": (written({}, machine={**MACHINE, "little_endian": False}), "byte order 'big'"),
    "machine": (written({}, machine=[1]), "what machine wrote it"),
    "weightless": (written({"epoch": 3}, (), b""), "no tensors under"),
    "reference in the header": (written({}, machine=floats()), "no storage: 'storage' of 6 parts"),
}  # fmt: skip


@pytest.mark.parametrize("flaw", FLAWS)
def test_files_that_contradict_themselves_are_refused(flaw: str) -> None:
    content, message = FLAWS[flaw]
    with pytest.raises(CheckpointError, match=message):
        index_of(content)


def test_files_of_protocol_0_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedFormatError, match="pickled with protocol 0"):
        index_of(saved_before_1_6({"w": torch.ones(2)}, pickle_protocol=0))


def test_a_pickle_that_claims_gigabytes_is_refused_before_they_are_read() -> None:
    header = written({}, (), b"")[: -len(pickle.dumps({}, 2) + pickle.dumps([], 2))]
    blob = BytesBlob(header + b"\x80\x02\x8e" + struct.pack("<Q", 1 << 40) + bytes(100_000))
    with pytest.raises(TruncatedError, match="inside its pickles"):
        read_index(blob)
    assert blob.fetched < 40_000


@pytest.mark.parametrize("kind", canaries(Path("x")))
def test_code_in_any_of_the_pickles_never_runs(kind: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    hostile = canaries(canary)[kind]
    parts = [pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, MACHINE, {}, [])]
    for position in (2, 3, 4):
        with pytest.raises(CheckpointLoadError, match="Preheat did not run it"):
            index_of(b"".join([*parts[:position], hostile, *parts[position + 1 :]]))
    assert not canary.exists()


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused(kind: str) -> None:
    parts = [pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, MACHINE)]
    with pytest.raises(CheckpointLoadError):
        index_of(b"".join(parts) + BOMBS[kind] + pickle.dumps([], 2))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: torch.randn(2, dtype=torch.complex64).conj(), "conj"),
        (lambda: torch.randn(2, dtype=torch.complex64).conj().imag, "neg"),
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.ones(3, dtype=torch.complex128), "ComplexDouble"),
    ],
    ids=["conj", "neg", "sparse", "complex128"],
)
def test_tensors_that_cannot_be_copied_are_refused_by_name(make: Any, word: str) -> None:
    with pytest.raises(UnsupportedFormatError, match=f"'encoder.w' is .*{word}"):
        index_of(saved_before_1_6({"state_dict": {"encoder.w": make()}}))
    harmless = saved_before_1_6({"state_dict": {"w": torch.ones(1)}, "other": make()})
    assert list(index_of(harmless).tensors) == ["w"]
