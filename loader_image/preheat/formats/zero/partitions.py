"""Puts weights together of the flat vectors among which DeepSpeed's ZeRO spreads them over the ranks.

Stages 1 and 2 cut the row of all weights of a group into one piece for each rank. Stage 3 cuts every weight into as
many equal pieces, of which each rank lays its own in a row. What fills up a row or a weight at its end is left out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from math import prod

from preheat.errors import CheckpointValidationError
from preheat.index import ITEMSIZE, Part, Tensor, joined

Shapes = Mapping[str, tuple[int, ...]]

_RESAVE = "Copy the files of all ranks from the same save"


class Row:
    """Flat tensors behind one another, as one vector."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._ends = list(accumulate(tensor.elements for tensor in tensors))
        self.elements = self._ends[-1] if tensors else 0

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Elements [start, stop), each run of a tensor with its place among them."""
        at, position = bisect_right(self._ends, start), start
        while position < stop:
            tensor, end = self._tensors[at], min(stop, self._ends[at])
            skipped = tensor.elements - (self._ends[at] - position)
            if end > position:
                offset = tensor.offset + skipped * ITEMSIZE[tensor.dtype]
                yield position - start, replace(tensor, shape=(end - position,), offset=offset)
            position, at = end, at + 1


def in_groups(
    groups: Sequence[Shapes], ranks: Sequence[Sequence[Tensor]], paddings: Sequence[Sequence[int]] | None
) -> dict[str, Tensor]:
    """The weights of stages 1 and 2; `ranks` hold a piece of each group, `paddings` what is between its weights."""
    found: dict[str, Tensor] = {}
    for number, shapes in enumerate(groups):
        row, start = Row([rank[number] for rank in ranks]), 0
        between = paddings[number] if paddings else [0] * len(shapes)
        for (name, shape), padding in zip(shapes.items(), between, strict=True):
            stop = start + prod(shape)
            _check_reach(name, stop, row.elements)
            found[name] = whole(name, shape, row.pieces(start, stop))
            start = stop + padding
        unit = 2 * len(ranks)  # rows are filled up to it, and not always saved so
        if -start // unit != -row.elements // unit:
            raise _left_over(f"group {number}", start, row.elements)
    return found


def in_shares(shapes: Shapes, ranks: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    """The weights of stage 3; `ranks` hold their shares of all weights, in one vector or several."""
    rows = [Row(rank) for rank in ranks]
    found: dict[str, Tensor] = {}
    start = 0
    for name, shape in shapes.items():
        share = -(-prod(shape) // len(rows))
        _check_reach(name, start + share, min(row.elements for row in rows))
        found[name] = whole(name, shape, _shares(rows, start, share, prod(shape)))
        start += share
    for number, row in enumerate(rows):
        if row.elements != start:
            raise _left_over(f"rank {number}", start, row.elements)
    return found


def whole(name: str, shape: tuple[int, ...], pieces: Iterator[tuple[int, Tensor]]) -> Tensor:
    """The fp32 tensor that flat pieces make up."""
    found = list(pieces)
    if len(found) == 1:
        tensor = replace(found[0][1], shape=shape)
    else:
        dtype = found[0][1].dtype if found else "F32"
        tensor = joined(name, dtype, shape, (Part((place,), piece) for place, piece in found))
    return in_float32(tensor)


def in_float32(tensor: Tensor) -> Tensor:
    """The tensor as the master weights are; what is no floating-point number stays as it is."""
    return replace(tensor, cast="F32") if tensor.dtype.startswith(("BF16", "F16", "F64", "F8")) else tensor


def _shares(rows: Sequence[Row], start: int, share: int, elements: int) -> Iterator[tuple[int, Tensor]]:
    for rank, row in enumerate(rows):
        taken = min(share, elements - rank * share)
        for place, piece in row.pieces(start, start + taken) if taken > 0 else ():
            yield rank * share + place, piece


def _check_reach(name: str, stop: int, elements: int) -> None:
    if stop > elements:
        raise CheckpointValidationError(
            f"tensor {name[:80]!r} reaches to element {stop} of the ranks' {elements}", remedy=_RESAVE
        )


def _left_over(where: str, used: int, elements: int) -> CheckpointValidationError:
    return CheckpointValidationError(f"the weights of {where} are {used} elements of {elements}", remedy=_RESAVE)
