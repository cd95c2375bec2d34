"""Files of torch.save, read without torch and compared with what torch itself reads."""

from __future__ import annotations

import io
import time
import warnings
from collections import OrderedDict
from typing import Any

import pytest
import torch
from formats.samples import (
    BytesBlob,
    Call,
    StoredAs,
    assert_equals,
    assert_equals_torch,
    checkpoint_of,
    index_of,
    pickled,
    same,
    saved,
    tensor_call,
    value_of,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.serialization import set_crc32_options
from torch.utils import serialization

from preheat.errors import CheckpointLoadError, CheckpointValidationError, UnsupportedFormatError
from preheat.formats import read_index
from preheat.formats.pytorch.tensors import DTYPES


def values(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    count = max(1, torch.Size(shape).numel()) * dtype.itemsize
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8)
    return raw.view(dtype)[: torch.Size(shape).numel()].reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype_is_read_as_torch_reads_it(dtype: str, protocol: int) -> None:
    tree = {"w": values(getattr(torch, dtype), 3, 5), "scalar": values(getattr(torch, dtype))}
    index = assert_equals(saved(tree, pickle_protocol=protocol), tree)  # torch's own safe loader ends at protocol 3
    assert {tensor.dtype for tensor in index.tensors.values()} == {DTYPES[dtype]}


def test_storages_aligned_to_pages_are_found() -> None:
    with serialization.config.patch({"save.storage_alignment": 4096}):
        content = saved({name: torch.randn(7) for name in "abc"})
    index = assert_equals_torch(content)
    assert all(tensor.start % 4096 == 0 for tensor in index.tensors.values())


def test_a_file_without_crc_has_records_without_crc() -> None:
    set_crc32_options(False)
    try:
        content = saved({"a": torch.randn(7)})
    finally:
        set_crc32_options(True)
    assert assert_equals_torch(content).tensors["a"].record.crc32 is None


def test_a_file_with_crc_carries_it() -> None:
    import zlib

    content = saved({"a": torch.randn(7)})
    record = index_of(content).tensors["a"].record
    assert record.crc32 == zlib.crc32(content[record.start : record.stop])


def test_views_keep_their_geometry() -> None:
    base = torch.randn(6, 8)
    tree = {
        "base": base,
        "rows": base[2:4],
        "transposed": base.t(),
        "strided": base[::2, 1::3],
        "expanded": torch.randn(3, 1).expand(3, 5),
        "channels_last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "one_row": base[:, :1],
        "empty": torch.empty(0, 3),
    }
    index = assert_equals_torch(saved(tree))
    gathered = {name for name, tensor in index.tensors.items() if not tensor.contiguous}
    assert gathered == {"transposed", "strided", "expanded", "channels_last", "one_row"}


def test_tied_weights_share_their_bytes() -> None:
    weight = torch.randn(4, 4)
    index = assert_equals_torch(saved({"embedding": weight, "head": weight, "parameter": torch.nn.Parameter(weight)}))
    assert len(set(index.tensors.values())) == 1
    assert index.parameters == 16


def test_parameters_with_attributes_are_parameters() -> None:
    weight = torch.nn.Parameter(torch.randn(3))
    weight.note = "kept out"
    content = saved({"w": weight})
    assert torch.equal(value_of(content, index_of(content).tensors["w"]), weight.detach())


def test_a_real_lightning_checkpoint_is_taken_apart(lightning_checkpoint: bytes) -> None:
    index = assert_equals_torch(lightning_checkpoint, lambda root: root["state_dict"])
    assert (index.format, index.layout) == ("torch-zip", "lightning")
    assert index.state["global_step"] == 1
    assert index.state["hyper_parameters"]["width"] == 16
    assert len(list(index.state_tensors())) == 3 * 4  # AdamW: step and two moments of each of four parameters
    assert "state_dict" not in index.state


def test_metadata_is_read_in_few_small_requests() -> None:
    tree = {"state_dict": {f"layers.{number}.weight": torch.zeros(1000) for number in range(600)}}
    blob = BytesBlob(saved(tree))
    index = read_index(blob)
    pickle_bytes = index_of_pickle(blob.content)
    assert len(blob.reads) <= 3
    assert blob.fetched == index.metadata_bytes <= pickle_bytes + 64 * 1024


def index_of_pickle(content: bytes) -> int:
    import zipfile

    return zipfile.ZipFile(io.BytesIO(content)).getinfo("archive/data.pkl").file_size


def test_six_hundred_tensors_take_milliseconds() -> None:
    content = saved({f"layers.{number}.weight": torch.zeros(4) for number in range(600)})
    best = min(timed(content) for _ in range(5))
    assert best < 0.1  # about 0.025 on an idle core


def timed(content: bytes) -> float:
    start = time.process_time()
    index_of(content)
    return time.process_time() - start


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_the_usual_keys_hold_the_weights(key: str) -> None:
    content = saved({key: OrderedDict(w=torch.randn(3)), "epoch": 7})
    index = assert_equals_torch(content, lambda root: root[key])
    assert (index.layout, index.state) == (key, {"epoch": 7})


def test_state_dict_goes_before_model() -> None:
    content = saved({"model": {"b": torch.randn(2)}, "state_dict": {"a": torch.randn(3)}})
    index = index_of(content)
    assert list(index.tensors) == ["a"]
    assert list(index.state["model"]) == ["b"]


def test_extra_state_of_a_module_is_state() -> None:
    index = index_of(saved({"state_dict": {"w": torch.ones(1), "bn._extra_state": {"scale": 3}}}))
    assert list(index.tensors) == ["w"]
    assert index.state == {"state_dict": {"bn._extra_state": {"scale": 3}}}


def test_a_raw_state_dict_with_extra_state_is_raw() -> None:
    index = index_of(saved({"w": torch.ones(1), "bn._extra_state": 3}))
    assert (index.layout, list(index.tensors), index.state) == ("raw", ["w"], {"bn._extra_state": 3})


def test_module_metadata_on_a_state_dict_is_tolerated() -> None:
    index = assert_equals_torch(saved({"state_dict": torch.nn.BatchNorm1d(3).state_dict()}), lambda r: r["state_dict"])
    assert index.tensors["num_batches_tracked"].shape == ()


@pytest.mark.parametrize("tree", [{}, {"state_dict": {}}, {"epoch": 3, "net": {"w": torch.ones(1)}}], ids=str)
def test_a_checkpoint_without_weights_lists_its_keys(tree: dict[str, Any]) -> None:
    with pytest.raises(
        CheckpointLoadError, match="top-level keys: " + ("none" if not tree else repr(next(iter(tree))))
    ):
        index_of(saved(tree))


def test_names_stay_opaque_keys() -> None:
    names = ["../../etc/passwd", "a\nb", "nul\0", "esc\x1b[31m", "ü", ""]
    assert_equals_torch(saved({name: torch.ones(1) for name in names}))


def sparse() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.eye(3).to_sparse_csr()


def quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


class Subclass(torch.Tensor):
    pass


REFUSED = {
    "conj": (lambda: torch.randn(2, dtype=torch.complex64).conj(), "conj"),
    "neg": (lambda: torch.randn(2, dtype=torch.complex64).conj().imag, "neg"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "sparse"),
    "sparse_csr": (sparse, "sparse"),
    "quantized": (quantized, "quantized"),
    "meta": (lambda: torch.empty(3, device="meta"), "meta"),
    "subclass": (lambda: torch.ones(3).as_subclass(Subclass), "Subclass"),
    "complex128": (lambda: torch.ones(3, dtype=torch.complex128), "ComplexDouble"),
    "fp4": (lambda: torch.ones(3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "float4_e2m1fn_x2"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_tensors_that_cannot_be_copied_are_refused_by_name(kind: str) -> None:
    make, word = REFUSED[kind]
    with pytest.raises(UnsupportedFormatError, match=f"'encoder.w' is .*{word}"):
        index_of(saved({"state_dict": {"encoder.w": make()}}))


@pytest.mark.parametrize("kind", REFUSED)
def test_the_same_tensors_outside_the_weights_do_no_harm(kind: str) -> None:
    make, _ = REFUSED[kind]
    index = index_of(saved({"state_dict": {"w": torch.ones(1)}, "other": make()}))
    assert list(index.tensors) == ["w"]


def test_an_object_that_is_no_module_is_refused_by_its_class() -> None:
    with pytest.raises(UnsupportedFormatError, match=r"object of class torch\.optim\.sgd\.SGD.*state_dict"):
        index_of(saved(torch.optim.SGD([torch.ones(1)])))
    with pytest.raises(UnsupportedFormatError, match=r"'model' is one pickled object of class torch\.optim"):
        index_of(saved({"model": torch.optim.SGD([torch.ones(1)]), "epoch": 3}))


def test_a_lone_tensor_is_no_state_dict() -> None:
    with pytest.raises(CheckpointLoadError, match="holds a Tensor"):
        index_of(saved(torch.ones(3)))


def test_a_torchscript_archive_is_refused_by_name() -> None:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    with pytest.raises(UnsupportedFormatError, match="TorchScript"):
        index_of(buffer.getvalue())


def test_a_big_endian_file_is_refused() -> None:
    with pytest.raises(UnsupportedFormatError, match="byte order 'big'"):
        index_of(checkpoint_of(pickled({}), byteorder=b"big"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (tensor_call(shape=(5,)), "outside its storage"),
        (tensor_call(offset=1), "outside its storage"),
        (tensor_call(shape=(2, 2), strides=(3, 2)), "outside its storage"),
        (tensor_call(offset=-1), "do not describe a tensor"),
        (tensor_call(shape=(2,), strides=(-1,)), "do not describe a tensor"),
        (tensor_call(shape=(2, 2)), "do not describe a tensor"),
        (tensor_call(shape=(True,)), "do not describe a tensor"),
        (tensor_call(shape=(1 << 62, 1 << 62), strides=(0, 0)), "too many elements"),
        (tensor_call(shape=(1 << 40,), strides=(0,)), "repeat the same bytes"),
        (tensor_call(storage=StoredAs(elements=5)), "declares 5 elements"),
        (tensor_call(storage=StoredAs(elements=3)), "declares 3 elements"),
        (tensor_call(storage=StoredAs(elements=-4)), "no number of elements"),
        (tensor_call(storage=StoredAs(key="9")), "'9', which is not in the file"),
        (tensor_call(storage=StoredAs(key="../byteorder")), "not in the file"),
        (tensor_call(storage=StoredAs(kind=OrderedDict)), "no type of torch's"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tensors_that_lie_about_themselves_are_refused(call: Call, message: str) -> None:
    with pytest.raises((CheckpointLoadError, CheckpointValidationError), match=message) as caught:
        index_of(checkpoint_of(pickled({"w": call}), {"0": bytes(16)}))
    assert "'w'" in str(caught.value) or "pickle" in str(caught.value) or "storage" in str(caught.value)


def test_a_lying_tensor_of_the_optimizer_is_refused_too() -> None:
    tree = {"state_dict": {"w": tensor_call()}, "optimizer": [{"moment": tensor_call(offset=1)}]}
    with pytest.raises(CheckpointValidationError, match="among the training state"):
        index_of(checkpoint_of(pickled(tree), {"0": bytes(16)}))


def test_bytes_after_the_pickle_are_refused() -> None:
    content = checkpoint_of(pickled({"w": tensor_call()}) + b"more", {"0": bytes(16)})
    with pytest.raises(CheckpointLoadError, match="4 bytes follow"):
        index_of(content)


def test_opaque_classes_are_listed_and_do_no_harm() -> None:
    import argparse
    import pathlib

    tree = {"w": tensor_call(), "x_extra_state": [argparse.Namespace(a=1), pathlib.PurePosixPath("/data"), {1, 2}]}
    index = index_of(checkpoint_of(pickled(tree), {"0": bytes(16)}))
    assert index.opaque == ("argparse.Namespace", "pathlib.PurePosixPath")


shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
tensors = st.builds(values, st.sampled_from([getattr(torch, name) for name in DTYPES]), st.just(2)) | st.builds(
    lambda shape, dtype: values(dtype, *shape), shapes, st.sampled_from([torch.float32, torch.bfloat16, torch.int64])
)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | tensors
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(weights=st.dictionaries(st.text(), tensors, min_size=1), other=trees, protocol=st.integers(2, 5))
def test_any_tree_is_read_as_torch_reads_it(weights: dict[str, torch.Tensor], other: Any, protocol: int) -> None:
    content = saved({"state_dict": weights, "other": other}, pickle_protocol=protocol)
    index = assert_equals(content, weights)
    assert_same_tree(content, index.state["other"], other, protocol)


def assert_same_tree(content: bytes, found: Any, expected: Any, protocol: int) -> None:
    if isinstance(expected, torch.Tensor):
        assert same(value_of(content, found), expected)
    elif isinstance(expected, dict):
        assert list(map(key_of, found)) == list(expected)
        for one, other in zip(found.values(), expected.values(), strict=True):
            assert_same_tree(content, one, other, protocol)
    elif isinstance(expected, (list, tuple)):
        assert type(found) is type(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same_tree(content, one, other, protocol)
    elif not (isinstance(expected, bytes) and protocol == 2):  # there bytes are a call of a codec, and stay one
        assert (type(found), found) == (type(expected), expected)


def key_of(key: Any) -> Any:
    return getattr(key, "value", key)


def test_an_empty_view_that_begins_beyond_its_storage_is_empty() -> None:
    assert_equals_torch(saved({"w": torch.randn(5, 6), "empty": torch.randn(5, 6)[5:1, 1:]}))
