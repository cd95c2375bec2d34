"""The best by a metric: what the pointers say after any values, beside the rule in words."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as some

from preheat.runs.position import Position
from preheat.saving.best import moved, tag_of

VALUES = some.lists(some.sampled_from([0.1, 0.2, 0.3, 0.4, float("nan")]), min_size=1, max_size=12)


def followed(values: list[float], mode: str, tolerances: list[int], again: int = 0) -> dict[str, Any]:
    """The update that each tag names in the end; the last `again` evaluations are made twice."""
    known: dict[str, Any] = {}
    at = [*enumerate(values), *list(enumerate(values))[len(values) - again :]]
    for update, value in at:
        for tag, pointer in moved(known, "m/x", value, mode, tolerances, Position(update=update)).items():
            known[tag] = {**pointer, **({"checkpoint": update} if pointer.pop("moves") else {})}
    return {tag: pointer.get("checkpoint") for tag, pointer in known.items()}


def by_the_rule(values: list[float], mode: str, tolerance: int | None) -> int | None:
    best, without = None, 0
    for update, value in enumerate(values):
        if value == value and (best is None or (value > values[best] if mode == "max" else value < values[best])):
            best, without = update, 0
        else:
            without += 1
        if tolerance is not None and without > tolerance:
            break
    return best


@given(VALUES, some.sampled_from(["min", "max"]), some.integers(0, 4))
def test_pointers_follow_the_rule(values: list[float], mode: str, tolerance: int) -> None:
    found = followed(values, mode, [tolerance])
    assert found == {
        tag_of("m/x"): by_the_rule(values, mode, None),
        "best.m.x": by_the_rule(values, mode, None),
        f"best.m.x.tolerance={tolerance}": by_the_rule(values, mode, tolerance),
    }


@given(VALUES, some.integers(0, 4), some.integers(0, 5))
def test_what_is_evaluated_again_after_a_restart_is_not_counted_twice(
    values: list[float], tolerance: int, again: int
) -> None:
    assert followed(values, "min", [tolerance], min(again, len(values))) == followed(values, "min", [tolerance])
