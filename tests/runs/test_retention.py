from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preheat.errors import CheckpointConfigError, CheckpointNotFoundError
from preheat.runs.checkpoint import Checkpoint, Found, Pointer
from preheat.runs.listing import Entry
from preheat.runs.position import Position
from preheat.runs.retention import FORGOTTEN, Known, Retention, rule
from preheat.runs.selection import Selection, Wanted


def checkpoint(
    update: int, *, model: str = "net", info: str = "", training: bool | None = True, incomplete: str = "", **more: Any
) -> Checkpoint:
    position = Position(epoch=update // 10, update=update, sample=32 * update)
    name = f"{model}{'_' if info else ''}{info}_cp={position}"
    files = (Entry(f"checkpoints/{name}/manifest.json", 100, float(update)),)
    return Checkpoint(
        "preheat", name, files, f"checkpoints/{name}", True, model, info, str(position), position,
        training=training, incomplete=incomplete, **more,
    )  # fmt: skip


def kept(checkpoints: Sequence[Checkpoint], retention: Retention, **known: Any) -> list[int]:
    """The updates of the checkpoints that stay."""
    rulings = rule(checkpoints, retention, Known(**known))
    return sorted(each.checkpoint.position.update for each in rulings if each.stays and each.checkpoint.position)  # type: ignore[misc]


TEN = [checkpoint(update) for update in range(10, 110, 10)]


@pytest.mark.parametrize("retention", [Retention(), Retention(last=0, best=0)])
def test_zero_and_zero_never_mean_delete_all(retention: Retention) -> None:
    assert kept(TEN, retention) == list(range(10, 110, 10))


def test_the_last_ones_stay_whatever_order_they_are_listed_in() -> None:
    assert kept(TEN[::-1], Retention(last=3)) == [80, 90, 100]


def test_the_best_ones_stay_and_what_has_no_value_is_not_among_them() -> None:
    losses = {each.path: {"loss": float(abs(each.position.update - 40))} for each in TEN}  # type: ignore[union-attr]
    losses[TEN[0].path]["loss"] = float("nan")
    del losses[TEN[1].path]
    assert kept(TEN, Retention(best=2, metric="loss"), metrics=losses) == [40, 50, 100]  # of equals the newer
    assert kept(TEN, Retention(best=1, metric="loss", highest=True), metrics=losses) == [100]


def test_the_first_of_every_period_stays_for_good_however_often_is_pruned() -> None:
    saved = [checkpoint(update) for update in (5, 12, 17, 23, 31, 38, 44)]
    once = kept(saved, Retention(every="U20"))
    assert once == [5, 23, 44]
    left = [each for each in saved if each.position.update in once]  # type: ignore[union-attr]
    assert kept(left, Retention(every="U20")) == once


def test_rules_add_up() -> None:
    assert kept(TEN, Retention(last=1, every="U50")) == [10, 50, 100]


def test_what_is_pointed_to_or_in_use_stays() -> None:
    known = {"pointed": {TEN[2].path: ("best.loss",)}, "used": {TEN[4].path: "a training"}}
    assert kept(TEN, Retention(last=1), **known) == [30, 50, 100]


def test_one_that_a_training_may_have_died_on_is_not_the_last_good_one() -> None:
    doubted = {TEN[-1].path: "training 1"}
    assert kept(TEN, Retention(last=1), doubted=frozenset(doubted), used=doubted) == [90, 100]


def test_the_last_one_to_go_on_from_stays_beside_weights_alone() -> None:
    saved = [checkpoint(10), checkpoint(20, training=False), checkpoint(30, training=False)]
    assert kept(saved, Retention(last=1)) == [10, 30]


def test_what_is_not_complete_counts_for_nothing_and_goes_when_it_is_forgotten() -> None:
    saved = [*TEN, checkpoint(110, incomplete="it has no manifest.json")]
    assert kept(saved, Retention(last=1)) == [100, 110]
    assert kept(saved, Retention(last=1), now=110 + FORGOTTEN - 1) == [100, 110]
    assert kept(saved, Retention(last=1), now=110 + FORGOTTEN + 1) == [100]
    foreign = [replace(each, layout="transformers") for each in saved]
    assert kept(foreign, Retention(last=1), now=10 * FORGOTTEN) == [100, 110]


def test_every_model_and_variant_keeps_its_own() -> None:
    saved = [*TEN, *(checkpoint(update, info="ema=0.9") for update in (10, 20))]
    assert kept(saved, Retention(last=1)) == [20, 100]


def test_models_of_one_training_keep_the_newest_place_that_they_share() -> None:
    saved = [checkpoint(update, model="encoder") for update in (10, 20, 30)]
    saved += [checkpoint(update, model="decoder") for update in (10, 20)]  # it died in between
    assert kept(saved, Retention(last=1)) == [20, 20, 30]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"last": -1}, "not negative"),
        ({"best": 2}, "by which metric"),
        ({"metric": "loss"}, "how many"),
        ({"every": "10"}, "E10"),
        ({"every": "E10_U5"}, "no period"),
        ({"every": "E0"}, "no period"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointConfigError, match=said):
        Retention(**wrong)


# What a resume needs.

SAVED = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.sampled_from(["net", "net", "net", "encoder"]),
        st.sampled_from(["", "", "", "ema=0.9"]),
        st.sampled_from([True, True, False, None]),
        st.sampled_from(["", "", "", "", "it has no manifest.json"]),
        st.sampled_from([0.1, 0.2, 0.3, float("nan")]),
    ),
    unique_by=lambda each: each[:3], min_size=3, max_size=12,
)  # fmt: skip
RULES = st.builds(
    lambda last, best, highest, every: Retention(last, best, "loss" if best else "", highest, every),
    st.integers(0, 3), st.integers(0, 2), st.booleans(), st.sampled_from(["", "U4", "E1", "S64"]),
)  # fmt: skip
SELECTORS = ("latest", "last", "best.loss", "release-1")


@settings(max_examples=200)
@given(SAVED, RULES, st.data())
def test_what_a_resume_would_choose_is_never_deleted(
    saved: list[Any], retention: Retention, data: st.DataObject
) -> None:
    checkpoints = [
        checkpoint(update, model=model, info=info, training=training, incomplete=incomplete)
        for update, model, info, training, incomplete, _ in saved
    ]
    metrics = {each.path: {"loss": one[-1]} for each, one in zip(checkpoints, saved, strict=True)}
    named = data.draw(st.dictionaries(st.sampled_from(SELECTORS[1:]), st.sampled_from(checkpoints)))
    doubted = data.draw(st.sets(st.sampled_from([each.path for each in checkpoints]), max_size=2))
    pointed: dict[str, list[str]] = {}
    for tag, each in named.items():
        pointed.setdefault(each.path, []).append(tag)
    known = Known(pointed, dict.fromkeys(doubted, "a training"), doubted, metrics, now=1e9)
    rulings = rule(checkpoints, retention, known)
    assert {each.checkpoint.path for each in rulings} == {each.path for each in checkpoints}
    left = [each.checkpoint for each in rulings if each.stays]
    if any(not each.incomplete for each in checkpoints):
        assert any(not each.incomplete for each in left)
    model, info = data.draw(st.sampled_from([(each.model, each.info) for each in checkpoints]))
    for select, training in product(SELECTORS, (False, True)):
        wanted = Wanted(select, model, info, training)
        assert selected(left, named, wanted, doubted) == selected(checkpoints, named, wanted, doubted), wanted


def selected(
    checkpoints: Sequence[Checkpoint], named: dict[str, Checkpoint], wanted: Wanted, doubted: set[str]
) -> str | None:
    """What a resume goes on from: the first that no training has died on."""
    pointers = tuple(
        Pointer(
            "preheat", Entry(f"checkpoints/{each.model}_{each.info}_cp={tag}.json", 1, 0.0), tag, each.model, each.info
        )
        for tag, each in named.items()
    )
    try:
        selection = Selection.of(
            Found(tuple(checkpoints), pointers), wanted, "run", lambda pointer: named[pointer.tag].name
        )
    except (CheckpointNotFoundError, CheckpointConfigError):
        return None
    return next((each.path for each in selection.checkpoints if each.path not in doubted), None)
