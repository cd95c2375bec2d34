"""Which checkpoint is the best by a metric, and which one would be had the training stopped when it got no better.

`best.<metric>.tolerance=N` follows `best.<metric>` until more than N evaluations in a row brought nothing better, and
then stays. What is known is in the pointers themselves, so a training that goes on goes on with this, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from preheat.errors import CheckpointConfigError
from preheat.runs.position import Position

Mode = Literal["min", "max"]
Pointer = Mapping[str, Any]


def tag_of(metric: str, tolerance: int | None = None) -> str:
    """What the best by a metric is called; slashes become dots, as Noether has it."""
    name = f"best.{metric.replace('/', '.')}"
    return name if tolerance is None else f"{name}.tolerance={tolerance}"


def check_modes(modes: Mapping[str, str], metrics: Mapping[str, Any]) -> None:
    """Raise CheckpointConfigError for a metric without a value, or a mode that is none."""
    for metric, mode in modes.items():
        if mode not in get_args(Mode):
            raise CheckpointConfigError(
                f"best: {metric} is to be {mode!r:.40}; give one of {', '.join(get_args(Mode))}"
            )
        if metric not in metrics:
            raise CheckpointConfigError(
                f"best: there is no metric {metric!r:.80}, but {', '.join(metrics) or 'none'}",
                remedy="Give its value under metrics",
            )


def moved(
    known: Mapping[str, Pointer], metric: str, value: float, mode: str, tolerances: Sequence[int], at: Position
) -> dict[str, dict[str, Any]]:
    """The pointers by tag after an evaluation, each with `moves` where it is to name the new checkpoint.

    `known` are those of before. An evaluation of a position that was seen already, by a training that went on from an
    earlier one, is not counted again.
    """
    best = known.get(tag_of(metric), {})
    better = _better(value, best.get("value"), mode)
    again = not better and at.order <= _order(best.get("seen"))
    without = best.get("without", 0) if again else 0 if better else best.get("without", 0) + 1
    facts = {"metric": metric, "mode": mode, "without": without, "seen": best.get("seen") if again else str(at)}
    pointers = {tag_of(metric): _pointer(best, facts, value, moves=better)}
    for tolerance in tolerances:
        before = known.get(tag_of(metric, tolerance), {})
        ended = bool(before.get("ended")) or (without > tolerance and not better)
        moves = better and not before.get("ended")
        pointers[tag_of(metric, tolerance)] = _pointer(
            before, {"metric": metric, "mode": mode, "ended": ended}, value, moves=moves
        )
    return pointers


def _pointer(before: Pointer, facts: Pointer, value: float, *, moves: bool) -> dict[str, Any]:
    return {**before, **facts, **({"value": value} if moves else {}), "moves": moves}


def _better(value: float, best: Any, mode: str) -> bool:
    if math.isnan(value):
        return False
    if not isinstance(best, (int, float)):
        return True
    return value > best if mode == "max" else value < best


def _order(seen: Any) -> tuple[int, int, int]:
    found = Position.parse(seen) if isinstance(seen, str) else None
    return found.order if found else (-1, -1, -1)
