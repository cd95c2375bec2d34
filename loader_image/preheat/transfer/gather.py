"""Brings strided tensors (transposed, channels-last, expanded) and those saved in parts into row-major order.

Holds a bounded block of them at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy
from numpy.lib.stride_tricks import as_strided

from preheat.blob import Blob
from preheat.index import ITEMSIZE, Part, Tensor, row_major

BLOCK = 2 * 1024 * 1024  # bytes of the source, or of the result, held at once

_KINDS = {1: numpy.uint8, 2: numpy.uint16, 4: numpy.uint32, 8: numpy.uint64}

Array = Any  # mypy does not know that numpy's arrays are buffers
Values = Callable[[Array], Array]


def gather(blob: Blob, tensor: Tensor, cast: Values = lambda values: values) -> Iterator[tuple[int, memoryview]]:
    """Runs of the row-major values as (offset from the tensor's first byte, bytes), each byte once, in any order.

    `cast` turns flat elements, unsigned integers of their width, into as many of another width.
    """
    if tensor.parts and all(part.tensor.contiguous for part in tensor.parts):
        yield from _assembled(blob, tensor, cast)
        return
    for part in tensor.parts or (Part((0,) * len(tensor.shape), tensor),):
        for corner, block in _blocks(part.tensor, part.corner):
            source = blob.read(block.start, block.start + block.extent())
            values = cast(_row_major(block, source).reshape(-1)).reshape(block.shape)
            yield from _runs(values, tensor.space, corner)


def _assembled(blob: Blob, tensor: Tensor, cast: Values) -> Iterator[tuple[int, memoryview]]:
    """Blocks of the result, put together of what each part holds of them: a few long writes, not many short ones."""
    width = ITEMSIZE[tensor.dtype]
    for corner, shape in _boxes(tensor.space, max(BLOCK // width, 1)):
        values: Array = numpy.empty(shape, _KINDS[width])
        for part in tensor.parts:
            _lay(blob, part, corner, values)
        result = cast(values.reshape(-1))
        start = int(numpy.ravel_multi_index(corner, tensor.space)) if corner else 0
        yield start * result.itemsize, memoryview(result).cast("B")


def _boxes(space: tuple[int, ...], room: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Corners and shapes of boxes of at most `room` elements that lie in a row in row-major order, in this order."""
    if not space:
        yield (), ()
        return
    row = math.prod(space[1:])
    if row > room:
        for at in range(space[0]):
            for corner, shape in _boxes(space[1:], room):
                yield (at, *corner), (1, *shape)
        return
    step = room // max(row, 1)
    for at in range(0, space[0], step):
        yield (at, *(0 for _ in space[1:])), (min(step, space[0] - at), *space[1:])


def _lay(blob: Blob, part: Part, corner: tuple[int, ...], values: numpy.ndarray) -> None:
    """Read what a row-major part holds of the box `values`, whose first element is at `corner`."""
    low = tuple(max(a, b) for a, b in zip(part.corner, corner, strict=True))
    high = tuple(min(a, c + n) for a, c, n in zip(part.end, corner, values.shape, strict=True))
    shape = tuple(b - a for a, b in zip(low, high, strict=True))
    if any(length <= 0 for length in shape):
        return
    strides = row_major(part.tensor.shape)
    first = sum((a - c) * step for a, c, step in zip(low, part.corner, strides, strict=True))
    held = replace(
        part.tensor, shape=shape, strides=strides, offset=part.tensor.offset + first * ITEMSIZE[part.tensor.dtype]
    )
    box = tuple(slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True))
    values[box] = _row_major(held, blob.read(held.start, held.start + held.extent()))


def _blocks(tensor: Tensor, corner: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Parts of the tensor that reach over at most BLOCK bytes and hold at most as many.

    Split along the axis with the widest steps; the outermost where elements are repeated, which costs no reading.
    """
    if max(tensor.extent(), tensor.size) <= BLOCK:
        yield corner, tensor
        return
    assert tensor.strides is not None  # noqa: S101 - row-major tensors are not gathered
    steps = tensor.strides if tensor.extent() > BLOCK else [0] * len(tensor.shape)
    axis = max((a for a, n in enumerate(tensor.shape) if n > 1), key=lambda a: steps[a])
    half = tensor.shape[axis] // 2
    step = tensor.strides[axis] * ITEMSIZE[tensor.dtype]
    for begin, length in ((0, half), (half, tensor.shape[axis] - half)):
        shape = (*tensor.shape[:axis], length, *tensor.shape[axis + 1 :])
        part = replace(tensor, shape=shape, offset=tensor.offset + begin * step)
        yield from _blocks(part, (*corner[:axis], corner[axis] + begin, *corner[axis + 1 :]))


def _row_major(block: Tensor, source: bytes) -> numpy.ndarray:
    width = ITEMSIZE[block.dtype]
    values = numpy.frombuffer(source, _KINDS[width])
    strides = [stride * width for stride in block.strides or ()]
    return numpy.ascontiguousarray(as_strided(values, block.shape, strides, writeable=False)).reshape(block.shape)


def _runs(block: numpy.ndarray, shape: tuple[int, ...], corner: tuple[int, ...]) -> Iterator[tuple[int, memoryview]]:
    """The block's values as runs of the whole: axes that it spans entirely join the run of the axis before them."""
    inner = len(shape)
    while inner > 0 and block.shape[inner - 1] == shape[inner - 1]:
        inner -= 1
    inner = max(0, inner - 1)  # a partial axis is still contiguous with the whole ones behind it
    for position in product(*(range(length) for length in block.shape[:inner])):
        place = (*(c + p for c, p in zip(corner, position, strict=False)), *corner[inner:])
        offset = int(numpy.ravel_multi_index(place, shape)) if shape else 0
        yield offset * block.itemsize, memoryview(block[position]).cast("B")
