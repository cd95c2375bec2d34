"""Tensors in columns are those that were put in; an object read bit by bit is the one that is read whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from preheat.formats.json_entries import entries
from preheat.index import Part, Record, Tensor, distinct
from preheat.packed import PackedTensors, numbers_of

COUNTS = st.integers(0, 1 << 63) | st.integers(0, 300)
NAMES = st.text(st.sampled_from("ab.0189"), max_size=6)


@st.composite
def tensors(draw: Any) -> Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3).map(tuple))
    record = Record(draw(NAMES), draw(COUNTS), draw(COUNTS), draw(st.none() | st.integers(0, (1 << 32) - 1)))
    dtype, cast = draw(st.sampled_from(["F32", "BF16"])), draw(st.none() | st.just("F16"))
    strides = draw(st.none() | st.just(tuple(2 for _ in shape)))
    alone = Tensor(dtype, shape, record, draw(COUNTS), strides, cast)
    parts = draw(st.just(()) | st.just((Part((0,), alone),)))
    return Tensor(dtype, shape, record, draw(COUNTS), strides, cast, parts)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, tensors()))
def test_packed_tensors_are_those_that_were_put_in(given: dict[str, Tensor]) -> None:
    packed = PackedTensors(given.items())
    assert packed == given
    assert list(packed) == list(given)
    assert list(packed.values()) == list(given.values())


def test_a_tensor_that_is_not_there_is_a_key_error() -> None:
    packed = PackedTensors([("a", Tensor("F32", (1,), Record("a", 0, 4)))])
    assert "b" not in packed
    with pytest.raises(KeyError):
        packed["b"]


@pytest.mark.parametrize("pack", [dict, PackedTensors])
def test_numbers_beside_tensors_are_a_mapping(pack: Any) -> None:
    numbers = numbers_of(pack((name, Tensor("F32", (1,), Record(name, 0, 4))) for name in "abc"))
    assert dict(numbers) == {}
    numbers["c"], numbers["a"] = 7, 0
    assert dict(numbers) == {"a": 0, "c": 7}
    assert (len(numbers), numbers.get("b")) == (2, None)
    del numbers["a"]
    assert list(numbers) == ["c"]


def test_tied_names_are_told_from_views_of_the_same_bytes() -> None:
    record = Record("r", 0, 40)
    whole, part, empty = Tensor("F32", (10,), record), Tensor("F32", (5,), record), Tensor("F32", (0,), record)
    given = {"a": whole, "b": part, "c": whole, "d": empty, "e": empty, "f": part}
    assert distinct(PackedTensors(given.items())) == (["a", "b", "d", "e"], {"c": "a", "f": "b"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def in_pieces(text: bytes, length: int) -> list[bytes]:
    return [text[at : at + length] for at in range(0, len(text), length)]


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(max_size=4), JSON, max_size=5), st.integers(1, 40), st.booleans(), st.booleans())
def test_an_object_in_pieces_is_the_whole_one(given: dict[str, Any], length: int, ascii_only: bool, wide: bool) -> None:
    text = json.dumps(given, ensure_ascii=ascii_only, indent=1 if wide else None).encode() + b"  \n"
    assert list(entries(in_pieces(text, length), json.JSONDecoder())) == list(given.items())


@settings(max_examples=300, deadline=None)
@given(text=st.text('{}[]",: \\ea1-.\n\t0ul', max_size=12), length=st.integers(1, 5))
@example(text='{"a":1}x', length=3)
@example(text='{"a":1,}', length=3)
@example(text='{"a" 1}', length=3)
@example(text='{"a":1 "b":2}', length=3)
@example(text="{1:1}", length=3)
@example(text="{", length=1)
@example(text="", length=1)
@example(text="{}}", length=1)
@example(text='{"a":1e', length=1)
def test_what_is_no_object_as_a_whole_is_none_in_pieces(text: str, length: int) -> None:
    for content in (text, "{" + text, '{"a":' + text):
        try:
            whole = json.loads(content, object_pairs_hook=lambda pairs: pairs)
        except ValueError:
            whole = None
        try:
            found = list(entries(in_pieces(content.encode(), length), json.JSONDecoder(object_pairs_hook=list)))
        except ValueError:
            found = None
        assert found == (whole if content.lstrip()[:1] == "{" and content[:1] == "{" else None)


def test_a_character_that_is_cut_is_put_together_and_half_of_one_refused() -> None:
    text = '{"ä€😀": "é"}'.encode()
    assert list(entries(in_pieces(text, 1), json.JSONDecoder())) == [("ä€😀", "é")]
    with pytest.raises(ValueError, match="utf-8"):
        list(entries([b'{"a": 1}', b"\xc3"], json.JSONDecoder()))
