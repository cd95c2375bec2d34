"""Brings strided tensors (transposed, channels-last, expanded) into row-major order, a bounded block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import numpy
from numpy.lib.stride_tricks import as_strided

from preheat.blob import Blob
from preheat.index import ITEMSIZE, Tensor

BLOCK = 4 * 1024 * 1024  # bytes of the source read at once

_KINDS = {1: numpy.uint8, 2: numpy.uint16, 4: numpy.uint32, 8: numpy.uint64}


def gather(
    blob: Blob, tensor: Tensor, cast: Callable[[numpy.ndarray], numpy.ndarray] = lambda values: values
) -> Iterator[tuple[int, memoryview]]:
    """Runs of the row-major values as (offset from the tensor's first byte, bytes), each byte once, in any order.

    `cast` turns flat elements, unsigned integers of their width, into as many of another width.
    """
    for corner, block in _blocks(tensor, (0,) * len(tensor.shape)):
        source = blob.read(block.start, block.start + block.extent())
        values = cast(_row_major(block, source).reshape(-1)).reshape(block.shape)
        yield from _runs(values, tensor.shape, corner)


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
