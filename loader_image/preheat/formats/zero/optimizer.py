"""Puts an optimizer's state together that ZeRO spreads over the ranks, like the weights: as torch saves it, by names.

A rank's optimizer has one flat parameter for each group of weights, in stage 3 for each part of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preheat.errors import CheckpointValidationError
from preheat.formats.zero import partitions
from preheat.index import Tensor

Saved = Mapping[Any, Any]  # what an optimizer's state_dict() gives


def gathered(
    stage: int, saved: Sequence[Any], groups: Sequence[partitions.Shapes], paddings: Sequence[Sequence[int]] | None
) -> dict[str, Any] | None:
    """The state with an entry for each weight; None where the ranks hold something else than flat moments."""
    if not all(_is_plain(each, len(groups)) for each in saved) or len({frozenset(_keys(each)) for each in saved}) > 1:
        return None
    states: dict[str, dict[Any, Any]] = {name: {} for shapes in groups for name in shapes}
    for key in _keys(saved[0]):
        rows = [[rank["state"][number][key] for number in range(len(groups))] for rank in saved]
        try:
            found = _moment(stage, rows, groups, paddings)
        except CheckpointValidationError:
            return None
        for name, value in found.items():
            states[name][key] = value
    options = [
        {**group, "params": [name for number in group["params"] for name in groups[number]]}
        for group in saved[0]["param_groups"]
    ]
    return {"state": states, "param_groups": options}


def _moment(
    stage: int, rows: list[list[Any]], groups: Sequence[partitions.Shapes], paddings: Sequence[Sequence[int]] | None
) -> Mapping[str, Any]:
    """One entry of all weights: cut as they are, or a number that holds for a whole group."""
    if not all(_is_flat(value) for row in rows for value in row):
        return {name: value for shapes, value in zip(groups, rows[0], strict=True) for name in shapes}
    if stage == 3:
        return partitions.in_shares({name: shape for shapes in groups for name, shape in shapes.items()}, rows)
    return partitions.in_groups(groups, rows, paddings)


def _keys(saved: Saved) -> Saved:
    first: Saved = saved["state"][0]
    return first


def _is_flat(value: Any) -> bool:
    return isinstance(value, Tensor) and value.contiguous and len(value.shape) == 1


def _is_plain(saved: Any, count: int) -> bool:
    state, groups = (saved.get("state"), saved.get("param_groups")) if isinstance(saved, dict) else (None, None)
    if not isinstance(state, dict) or not isinstance(groups, list) or state.keys() != set(range(count)):
        return False
    entries = list(state.values())
    if not entries or not all(isinstance(entry, dict) and entry.keys() == entries[0].keys() for entry in entries):
        return False
    return all(isinstance(group, dict) and _numbers_groups(group.get("params"), count) for group in groups)


def _numbers_groups(params: Any, count: int) -> bool:
    return isinstance(params, list) and all(type(number) is int and 0 <= number < count for number in params)
