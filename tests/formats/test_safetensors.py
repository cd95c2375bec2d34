"""safetensors headers, read and written; the format's own library is the judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from formats.samples import TORCH_DTYPES, assert_equals, index_of
from hypothesis import given, settings
from hypothesis import strategies as st

from preheat.errors import CheckpointLoadError, CheckpointValidationError, TruncatedError, UnsupportedFormatError
from preheat.formats.safetensors import Header, offsets
from preheat.index import ITEMSIZE

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_of(entries: Any, data: bytes = bytes(8)) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_files_of_the_library_are_read() -> None:
    tensors = {name: torch.arange(6).reshape(2, 3).to(dtype) for name, dtype in TORCH_DTYPES.items()}
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 4)}
    index = assert_equals_in_any_order(safetensors.torch.save(tensors, {"format": "pt"}), tensors)
    assert (index.format, index.layout) == ("safetensors", "safetensors")
    assert index.state == {"__metadata__": {"format": "pt"}}


def assert_equals_in_any_order(content: bytes, expected: dict[str, torch.Tensor]) -> Any:
    return assert_equals(content, {name: expected[name] for name in index_of(content).tensors})


@settings(max_examples=100, deadline=None)
@given(
    tensors=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(list(ITEMSIZE)), st.lists(st.integers(0, 4), max_size=4).map(tuple)),
        min_size=1,
    ),
    metadata=st.none() | st.dictionaries(st.text(), st.text()),
)
def test_headers_are_those_of_the_library(tensors: dict[str, Any], metadata: dict[str, str] | None) -> None:
    written = bytes(Header(tensors, metadata))
    theirs = safetensors.torch.save(
        {n: torch.zeros(s, dtype=TORCH_DTYPES[d]) for n, (d, s) in tensors.items()}, metadata
    )
    length = int.from_bytes(theirs[:8], "little")
    assert list(json.loads(written[8:]).items())[bool(metadata) :] == [
        item for item in json.loads(theirs[8 : 8 + length]).items() if item[0] != "__metadata__"
    ]
    assert len(written) % 4096 == 0
    assert {name for name, _ in safetensors.deserialize(written + theirs[8 + length :])} == tensors.keys()
    assert index_of(written + theirs[8 + length :]).tensors.keys() == tensors.keys()


def test_headers_are_deterministic() -> None:
    tensors = {"b": ("F32", (2,)), "a": ("F32", (3,)), "c": ("I64", ())}
    turned = dict(reversed(tensors.items()))
    assert bytes(Header(tensors, {"x": "1", "y": "2"})) == bytes(Header(turned, {"y": "2", "x": "1"}))
    assert list(offsets(tensors)) == [("c", 0, 8), ("a", 8, 20), ("b", 20, 28)]


def test_a_tensor_cannot_be_called_like_the_metadata() -> None:
    with pytest.raises(UnsupportedFormatError, match="keeps for itself"):
        Header({"__metadata__": ("F32", ())})


HOSTILE: dict[str, tuple[bytes, type[Exception], str]] = {
    "duplicate key": (
        file_of(b'{"a":' + json.dumps(F32).encode() + b',"a":' + json.dumps(F32).encode() + b"}"),
        CheckpointValidationError,
        "names 'a' twice",
    ),
    "duplicate inner key": (
        file_of(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
        CheckpointValidationError,
        "names 'dtype' twice",
    ),
    "hole": (file_of({"a": {**F32, "data_offsets": [4, 12]}}, bytes(12)), CheckpointValidationError, "hole"),
    "overlap": (
        file_of({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, bytes(12)),
        CheckpointValidationError,
        "overlaps",
    ),
    "trailing bytes": (file_of({"a": F32}, bytes(9)), CheckpointValidationError, "1 bytes follow the last tensor"),
    "missing bytes": (file_of({"a": F32}, bytes(7)), TruncatedError, "ends at byte"),
    "header beyond the file": (file_of({"a": F32})[:30], TruncatedError, "header should reach to byte"),
    "huge header": ((1 << 40).to_bytes(8, "little") + b"{}", CheckpointLoadError, "claims 1099511627776 bytes"),
    "not JSON": (file_of(b"{nonsense"), CheckpointLoadError, "not valid JSON"),
    "not UTF-8": (file_of(b'{"\xff":1}'), CheckpointLoadError, "not valid JSON"),
    "NaN": (file_of(b'{"a":NaN}'), CheckpointLoadError, "not valid JSON"),
    "deep": (file_of(b'{"a":' * 50_000), CheckpointLoadError, "not valid JSON"),
    "huge number": (file_of(b'{"a":' + b"9" * 5000 + b"}"), CheckpointLoadError, "not valid JSON"),
    "size": (file_of({"a": {**F32, "shape": [3]}}), CheckpointValidationError, "needs 12 bytes and is given 8"),
    "overflow": (file_of({"a": {**F32, "shape": [1 << 62, 1 << 62]}}), CheckpointValidationError, "needs"),
    "negative": (file_of({"a": {**F32, "shape": [-2]}}), CheckpointLoadError, "not valid"),
    "fraction": (file_of({"a": {**F32, "shape": [2.0]}}), CheckpointLoadError, "not valid"),
    "boolean": (file_of({"a": {**F32, "shape": [True, 2]}}), CheckpointLoadError, "not valid"),
    "backwards": (file_of({"a": {**F32, "data_offsets": [8, 0]}}), CheckpointLoadError, "not valid"),
    "unknown dtype": (file_of({"a": {**F32, "dtype": "F4"}}), UnsupportedFormatError, "dtype 'F4'"),
    "dtype of another type": (file_of({"a": {**F32, "dtype": []}}), UnsupportedFormatError, "has dtype"),
    "another key": (file_of({"a": {**F32, "more": 1}}), CheckpointLoadError, "needs dtype, shape and data_offsets"),
    "no entry": (file_of({"a": 3}), CheckpointLoadError, "needs dtype, shape and data_offsets"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), CheckpointLoadError, "map strings to strings"),
    "no tensors": (file_of({}, b""), CheckpointLoadError, "no tensors"),
    "negative zero": (
        file_of(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[-0,8]}}'),
        CheckpointLoadError,
        "valid",
    ),
    "half a character of metadata": (
        file_of(b'{"__metadata__":{"a":"\\ud800"},"a":' + json.dumps(F32).encode() + b"}"),
        CheckpointLoadError,
        "half a character",
    ),
    "half a character": (file_of(b'{"\\ud800":' + json.dumps(F32).encode() + b"}"), CheckpointLoadError, "no text"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_bad_headers_are_refused(kind: str) -> None:
    content, error, message = HOSTILE[kind]
    with pytest.raises(error, match=message):
        index_of(content)


def test_a_file_cut_anywhere_is_refused() -> None:
    content = safetensors.torch.save({"a": torch.randn(3), "b": torch.randn(2)})
    for length in range(len(content)):
        with pytest.raises(CheckpointLoadError):
            index_of(content[:length])


def test_names_stay_opaque_keys(tmp_path: Path) -> None:
    names = ["../../etc/passwd", "a\nb", "nul\0", "esc\x1b[31m", "ü", ""]
    content = safetensors.torch.save({name: torch.ones(1) for name in names})
    assert set(index_of(content).tensors) == set(names)
    assert not list(tmp_path.iterdir())
