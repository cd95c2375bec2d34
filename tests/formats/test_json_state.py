"""State as JSON: types that JSON has are kept, the rest is spelled out, and nothing makes it large."""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preheat.formats.inert.values import FROZENSET, SET, Global, Key, Node
from preheat.formats.json_state import to_json
from preheat.index import Record, Tensor


@pytest.mark.parametrize(
    ("value", "spelled"),
    [
        ((1, [2.5, None], True), [1, [2.5, None], True]),
        (math.nan, {"$float": "nan"}),
        (-math.inf, {"$float": "-inf"}),
        (b"ab", {"$bytes": "YWI="}),
        (1 + 2j, {"$complex": [1.0, 2.0]}),
        ({0: "a", "b": 1}, {"$items": [[0, "a"], ["b", 1]]}),
        ({"$set": 1}, {"$items": [["$set", 1]]}),
        ({Key((1, 2)): "x"}, {"$items": [[[1, 2], "x"]]}),
        (Node(SET, items=[1]), {"$set": [1]}),
        (Node(FROZENSET, ([1],)), {"$set": [1]}),
        (Node(Global("pathlib", "PosixPath"), ("/data",)), {"$opaque": "pathlib.PosixPath"}),
        (Node(Node(Global("functools", "partial"))), {"$opaque": "functools.partial"}),
        (Global("torch", "float32"), {"$opaque": "torch.float32"}),
        (Tensor("F32", (2, 3), Record("r", 0, 24)), {"$tensor": {"dtype": "F32", "shape": [2, 3]}}),
        ("x" * 5000, {"$omitted": "5000 characters"}),
        (b"x" * 5000, {"$omitted": "5000 bytes"}),
    ],
    ids=lambda value: re.sub(" object at 0x[0-9a-f]+", "", repr(value)),
)
def test_values_are_spelled(value: Any, spelled: Any) -> None:
    assert to_json({"it": value}) == {"it": spelled}


def test_what_is_near_the_root_survives_what_is_long() -> None:
    tree = {"optimizer": [{"moments": list(range(50_000))}], "epoch": 3, "many": list(range(50_000))}
    assert to_json(tree) == {
        "optimizer": [{"moments": {"$omitted": "50000 values"}}],
        "epoch": 3,
        "many": {"$omitted": "50000 values"},
    }


def test_trees_that_repeat_or_hold_themselves_stay_small() -> None:
    shared: list[Any] = [1]
    for _ in range(60):
        shared = [shared, shared]
    assert len(json.dumps(to_json(shared))) < 1_000_000
    endless: list[Any] = []
    endless.append(endless)
    assert "a deep value" in json.dumps(to_json(endless)) or "values" in json.dumps(to_json(endless))


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
keys = st.text() | st.integers() | st.just(Key((1,)))
trees = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(keys, inner) | st.tuples(inner, inner))


@settings(max_examples=100, deadline=None)
@given(tree=trees)
def test_everything_becomes_strict_json(tree: Any) -> None:
    json.loads(json.dumps(to_json(tree), allow_nan=False).encode())


LONG = "x" * 4096


@pytest.mark.parametrize(
    "value",
    [LONG, {LONG: 1}, b"x" * 4096, 1 << 8000, Global("m", "x" * 100_000), Node(Global("x" * 100_000, "n"))],
    ids=["text", "key", "bytes", "integer", "global", "node"],
)
def test_a_long_value_that_is_repeated_makes_nothing_large(value: Any) -> None:
    assert len(json.dumps(to_json([value] * 9000))) < 3_000_000


def test_calls_of_calls_take_no_longer_the_more_there_are() -> None:
    node = Node(Global("m", "n"))
    for _ in range(100_000):
        node = Node(node)
    started = time.process_time()
    assert to_json([node] * 9000)[0] == {"$opaque": "a call of calls"}
    assert time.process_time() - started < 2
