"""A training state as a document and tensors: what goes in comes out, of the same types, and nothing gets lost."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat.errors import CheckpointLoadError, NothingMatchedError
from preheat.formats.inert.values import SET, Global, Key, Node
from preheat.formats.training_state import (
    Opaque,
    opaque_in,
    parts_of,
    require_optimizer,
    spell_state,
    unspell_state,
)
from preheat.index import Record, Tensor

MOMENTS = Tensor("F32", (2, 3), Record("r", 0, 24))
ADAM = {"state": {0: {"exp_avg": MOMENTS}}, "param_groups": [{"betas": (0.9, 0.99), "params": [0]}]}

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(), st.binary(),
    st.complex_numbers(allow_nan=False),
)  # fmt: skip
keys = st.one_of(st.text(), st.integers(-(2**62), 2**62), st.binary())
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(tuple), st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=20,
)


def again(tree: Any) -> Any:
    spelled = spell_state(tree)
    document = json.loads(json.dumps(spelled.document, allow_nan=False))
    return unspell_state(document, spelled.tensors.__getitem__)


def alike(one: Any, other: Any) -> bool:
    if type(one) is not type(other) or (isinstance(one, (list, tuple, dict)) and len(one) != len(other)):
        return False
    if isinstance(one, (list, tuple)):
        return all(map(alike, one, other))
    if isinstance(one, dict):
        return all(map(alike, one.items(), other.items()))
    return repr(one) == repr(other)


@given(trees)
def test_plain_values_come_back_as_they_were(tree: Any) -> None:
    assert alike(again(tree), tree)


def test_what_json_lacks_comes_back_too() -> None:
    tree = {
        "set": Node(SET, items=[1, 2]),
        "counter": Node(Global("collections", "Counter"), ({30: 1, 80: 2},)),
        "pair": {Key((1, "a")): 1},
        "nan": math.nan,
        "$dollar": {"$tensor": "no reference"},
    }
    found = again(tree)
    assert math.isnan(found.pop("nan"))
    assert found == {
        "set": {1, 2},
        "counter": Counter({30: 1, 80: 2}),
        "pair": {(1, "a"): 1},
        "$dollar": {"$tensor": "no reference"},
    }
    assert type(found["counter"]) is Counter


def test_tensors_are_named_by_the_keys_that_lead_to_them() -> None:
    other = Tensor("F32", (1,), Record("s", 24, 28))
    spelled = spell_state(
        {"optimizer_states": [ADAM], "a": {"b": other}, "a.b": Tensor("I64", (), Record("t", 32, 40))}
    )
    assert list(spelled.tensors) == ["optimizer_states.0.state.0.exp_avg", "a.b", "a.b_"]
    assert spelled.document["a"] == {"b": {"$tensor": "a.b"}}


def test_tensors_that_share_their_bytes_are_kept_once() -> None:
    spelled = spell_state({"a": MOMENTS, "b": MOMENTS})
    assert list(spelled.tensors) == ["a"]
    assert again({"a": MOMENTS, "b": MOMENTS}) == {"a": MOMENTS, "b": MOMENTS}


def test_objects_are_kept_by_their_name_and_told() -> None:
    path, sparse = Node(Global("pathlib", "PosixPath"), ("/data",)), Node(Global("torch", "Tensor"), refusal="sparse")
    tree = {"callbacks": {"Watch": [path]}, "grad": sparse, "dtype": Global("torch", "float32")}
    assert spell_state(tree).opaque == {
        "callbacks.Watch.0": "pathlib.PosixPath",
        "grad": "torch.Tensor sparse",
        "dtype": "torch.float32",
    }
    found = again(tree)
    assert isinstance(found["grad"], Opaque)
    assert next(iter(opaque_in(found))) == ("callbacks.Watch.0", "pathlib.PosixPath")
    two = again({Node(Global("m", "Color")): 1, Node(Global("m", "Color")): 2})
    assert sorted(two.values()) == [1, 2]


@pytest.mark.parametrize("tree", [list(range(200)), "x" * 20_000, {"k" * 20_000: 1}], ids=["values", "text", "key"])
def test_too_much_is_refused_not_cut(tree: Any) -> None:
    with pytest.raises(CheckpointLoadError, match=r"more than 100 values or 100 levels, at long.*weightsOnly"):
        spell_state({"long": tree}, max_values=100)


def test_levels_without_end_are_refused() -> None:
    deep = Node(SET)
    deep.items = [deep]
    with pytest.raises(CheckpointLoadError, match="levels"):
        spell_state({"deep": deep})


def test_a_number_that_no_text_can_give_back_is_refused() -> None:
    assert again([2**11_999]) == [2**11_999]
    with pytest.raises(CheckpointLoadError, match="an integer of 12001 bits"):
        spell_state([2**12_000])


@pytest.mark.parametrize(
    "document",
    [
        {"$unknown": 1}, {"$tensor": "no such"}, {"$float": 3}, {"$bytes": "?"}, {"$items": [[1]]}, {"$tuple": 3},
        {"$items": [[1, 2], [1, 3]]}, {"$set": [[1]]}, {"$tuple": [], "b": 1}, {"$items": [[[1], 2]]}, {"$opaque": 1},
        {"$complex": [1, 2, 3]}, {"$counter": 7}, {"$tensor": []},
    ],
    ids=str,
)  # fmt: skip
def test_a_document_of_something_else_is_refused(document: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        unspell_state({"it": document}, {}.__getitem__)


@pytest.mark.parametrize(
    ("tree", "optimizers", "schedulers", "rest"),
    [
        ({"optimizer_states": [ADAM], "lr_schedulers": [{"last_epoch": 3}], "epoch": 1},
         ["optimizer_states.0"], ["lr_schedulers.0"], ["epoch"]),
        ({"optimizer_state_dict": ADAM, "scheduler": {"last_epoch": 3}, "step": 1},
         ["optimizer_state_dict"], ["scheduler"], ["step"]),
        ({"optimizers": {"g": ADAM, "d": ADAM}, "scaler": {"scale": 2.0}}, ["optimizers.g", "optimizers.d"], [],
         ["scaler"]),
        ({"opt": ADAM, "lr_schedulers": [], "optimizer_states": []}, ["opt"], [], []),
        ([1, 2], [], [], []),
    ],
    ids=["lightning", "plain", "several", "empty", "no dictionary"],
)  # fmt: skip
def test_optimizers_and_schedulers_are_found(tree: Any, optimizers: Any, schedulers: Any, rest: Any) -> None:
    found = parts_of(tree)
    assert (list(found.optimizers), list(found.schedulers), list(found.rest)) == (optimizers, schedulers, rest)


def test_a_state_without_an_optimizer_is_refused_with_what_it_has() -> None:
    with pytest.raises(NothingMatchedError, match=r"x\.ckpt holds no optimizer's state.*it has epoch, loops"):
        require_optimizer({"epoch": 1, "loops": {}}, "x.ckpt")
    with pytest.raises(NothingMatchedError, match="it has nothing"):
        require_optimizer({}, "x.safetensors")
