"""Optimizers' states under other names: what follows, what goes, and what has no names to follow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat.formats.optimizer_names import follow, names_of

NAMES = {"a": "x.a", "b": None, "c": "c"}


def optimizer(*groups: dict[str, Any], **state: Any) -> dict[str, Any]:
    entries = {int(key[1:]): value for key, value in state.items()}
    return {"state": entries, "param_groups": list(groups)}


NUMBERED = optimizer({"params": [0, 1, 2], "param_names": ["a", "b", "c"], "lr": 1}, _0="A", _1="B", _2="C")
FOLLOWED = optimizer({"params": [0, 2], "param_names": ["x.a", "c"], "lr": 1}, _0="A", _2="C")


@pytest.mark.parametrize(
    ("tree", "wanted"),
    [
        ({"optimizer": NUMBERED, "epoch": 1}, {"optimizer": FOLLOWED, "epoch": 1}),
        ({"optimizer_states": [NUMBERED, {"other": 1}]}, {"optimizer_states": [FOLLOWED, {"other": 1}]}),
        ({"optimizers": {"g": NUMBERED, "n": 2}}, {"optimizers": {"g": FOLLOWED, "n": 2}}),
    ],
)
def test_optimizers_are_found_wherever_a_warm_start_finds_them(tree, wanted):
    assert follow(tree, lambda: NAMES) == wanted


def test_names_in_place_of_numbers_are_changed_everywhere():
    saved = {"state": {"a": "A", "b": "B", "d": "D"}, "param_groups": [{"params": ["a", "b"]}, {"params": ["d"]}]}
    wanted = {"state": {"x.a": "A", "d": "D"}, "param_groups": [{"params": ["x.a"]}, {"params": ["d"]}]}
    assert follow({"optim": saved}, lambda: NAMES) == {"optim": wanted}


def test_names_that_change_places_do():
    saved = {"state": {"a": "A", "b": "B"}, "param_groups": [{"params": ["a", "b"]}]}
    found = follow({"optim": saved}, lambda: {"a": "b", "b": "a"})["optim"]
    assert found == {"state": {"b": "A", "a": "B"}, "param_groups": [{"params": ["b", "a"]}]}


def test_a_state_without_names_stays_as_it_is():
    saved = optimizer({"params": [0, 1]}, _0="A")
    assert follow({"optim": saved}, lambda: NAMES) == {"optim": saved}


def test_no_names_are_asked_for_without_an_optimizer():
    tree = {"epoch": 1, "callbacks": {"EMA": [1]}}
    assert follow(tree, lambda: pytest.fail("asked")) is tree


@pytest.mark.parametrize(
    "group",
    [
        {"params": [0], "param_names": [["a"]]},
        {"params": [[0]], "param_names": ["a"]},
        {"params": [0], "param_names": "a"},
    ],
)
def test_what_are_no_names_is_left_alone(group):
    assert names_of(group) is None
    tree = {"optim": {"state": {}, "param_groups": [group, "no group", {"params": 3}]}}
    assert follow(tree, lambda: NAMES) == tree


@given(
    st.permutations(["a", "b", "c"]), st.dictionaries(st.sampled_from("abc"), st.sampled_from(["u", None]), max_size=1)
)
def test_each_entry_stays_with_its_parameter(order, changes):
    saved = optimizer({"params": [0, 1, 2], "param_names": list(order)}, _0=order[0], _1=order[1], _2=order[2])
    [group] = (found := follow({"o": saved}, lambda: changes)["o"])["param_groups"]
    entries = {name: found["state"][key] for name, key in zip(group["param_names"], group["params"], strict=True)}
    assert entries == {changes.get(name, name): name for name in order if changes.get(name, name)}
    assert len(found["state"]) == len(entries)
