"""What a pickle refers to again is found by walking through it once; nothing else may change by that."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from formats.samples import index_of, saved
from hypothesis import given
from hypothesis import strategies as st

from preheat.formats.inert import machine
from preheat.formats.inert.memo import asked_for
from preheat.formats.inert.reader import read_pickle

TWICE = ("x",)
TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4) | st.tuples(inner)
    ),
    max_leaves=12,
)


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "WORTH_IT", 0)


def read(content: bytes) -> Any:
    return read_pickle(content, {}, lambda identity: identity).value


@given(TREES, st.integers(0, 5))
def test_a_pickle_says_the_same_with_only_what_it_asks_for_remembered(tree: Any, protocol: int) -> None:
    shared = [tree, tree, {"again": tree}]
    found = read(pickle.dumps(shared, protocol))
    if protocol:  # Python 3 writes bytes as a call into protocols 0 to 2, which stays a node
        assert repr(found) == repr(read_again(pickle.dumps(shared, protocol)))


def read_again(content: bytes) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "WORTH_IT", 1 << 60)
        return read(content)


def test_tied_and_nested_tensors_stay_what_they_are() -> None:
    weight = torch.randn(3, 4)
    content = saved({"state_dict": {"a": weight, "tied": weight, "t": weight.t()}, "epoch": 3, "list": [weight]})
    index = index_of(content)
    assert index.tensors["a"].place == index.tensors["tied"].place
    assert index.state["epoch"] == 3


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_only_what_is_asked_for_is_remembered(protocol: int) -> None:
    asked = asked_for(pickle.dumps([("a", "b"), ("a", "c")], protocol), 0)
    assert len(asked or ()) == 1


@pytest.mark.parametrize(
    "content",
    [pickle.dumps([TWICE, TWICE], 0), b"\x80\x02]\x94(h\0e.", b"\x80\x04]q\0\x94h\0.", b"\x80\x04]r\0\0\0\0h\0."],
)
def test_numbers_that_cannot_be_told_ahead_are_all_remembered(content: bytes) -> None:
    assert asked_for(content, 0) is None


@given(st.binary(max_size=60))
def test_any_bytes_are_walked_through_to_an_end(content: bytes) -> None:
    asked_for(content, 0)
