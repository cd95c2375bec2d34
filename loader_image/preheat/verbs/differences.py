"""How far the values of two tensors are apart, a block at a time, whatever dtypes they have."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from preheat.blob import Blob
from preheat.bundle.storage import storage_errors
from preheat.file_blob import FileBlob
from preheat.index import FLOAT8, ITEMSIZE, Tensor
from preheat.transfer.float8 import float8_values
from preheat.transfer.gather import gather

BLOCK = 128 * 1024  # elements

Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True)
class Difference:
    """The greatest absolute difference, and how many elements differ; NaN on one side only is infinitely far."""

    largest: float
    differing: int
    elements: int

    @property
    def equal(self) -> bool:
        """Whether every element has the same value, NaN equal to NaN."""
        return self.differing == 0

    def to_json(self) -> dict[str, Any]:
        """JSON knows no infinity: null stands for it."""
        largest = self.largest if math.isfinite(self.largest) else None
        return {"maxAbs": largest, "differing": self.differing, "elements": self.elements}


def difference(first: tuple[Blob, Tensor], second: tuple[Blob, Tensor]) -> Difference:
    """Compare two tensors of the same shape in a few MiB of memory; different dtypes are compared by value."""
    largest, differing = 0.0, 0
    elements = first[1].elements
    with _values(*first) as ones, _values(*second) as others:
        for one, other in zip(ones, others, strict=True):
            apart = _apart(one, other)
            if apart.size:
                differing += apart.size
                largest = max(largest, float(apart.max()))
    return Difference(largest, differing, elements)


def _apart(one: Array, other: Array) -> Array:
    """Distances of the elements that differ."""
    same = (one == other) | ((one != one) & (other != other))
    if same.all():
        return numpy.empty(0)
    one, other = one[~same], other[~same]
    if one.dtype == other.dtype and one.dtype.kind in "iu":  # exact, where floats could not tell large ones apart
        unsigned = numpy.dtype(f"u{one.dtype.itemsize}")
        found: Array = numpy.maximum(one, other).view(unsigned) - numpy.minimum(one, other).view(unsigned)
        return found
    if one.dtype.kind != "c" and other.dtype.kind != "c":
        one, other = one.astype(numpy.float64), other.astype(numpy.float64)
    with numpy.errstate(invalid="ignore", over="ignore"):
        distances: Array = numpy.abs(one - other).astype(numpy.float64)
    distances[numpy.isnan(distances)] = math.inf
    return distances


@contextmanager
def _values(blob: Blob, tensor: Tensor) -> Iterator[Iterator[Array]]:
    """The row-major values in blocks of the same number of elements for every dtype."""
    with ExitStack() as stack:
        if tensor.contiguous:
            yield _blocks(blob, tensor, tensor.start)
        else:
            yield _blocks(stack.enter_context(_gathered(blob, tensor)), tensor, 0)


@contextmanager
def _gathered(blob: Blob, tensor: Tensor) -> Iterator[Blob]:
    """A strided tensor's values in order, on disk: putting them in order in memory would take all of it."""
    with tempfile.NamedTemporaryFile(prefix="preheat-") as file:
        with storage_errors(Path(file.name).parent):
            for offset, run in gather(blob, tensor):
                os.pwrite(file.fileno(), run, offset)
        dense = FileBlob(Path(file.name))
        try:
            yield dense
        finally:
            dense.close()


def _blocks(blob: Blob, tensor: Tensor, start: int) -> Iterator[Array]:
    width = ITEMSIZE[tensor.dtype]
    buffer = memoryview(bytearray(BLOCK * width))
    filled = memoryview(bytearray(BLOCK * width))
    count = 0
    for view in blob.stream(start, start + tensor.size, buffer):  # a fault makes slices shorter
        while view:
            taken = min(len(view), len(filled) - count)
            filled[count : count + taken] = view[:taken]
            view, count = view[taken:], count + taken
            if count == len(filled):
                yield _decoded(filled, tensor.dtype)
                count = 0
    if count:
        yield _decoded(filled[:count], tensor.dtype)


_PLAIN: Mapping[str, Any] = {
    "BOOL": numpy.uint8, "U8": numpy.uint8, "I8": numpy.int8, "U16": numpy.uint16, "I16": numpy.int16,
    "F16": numpy.float16, "U32": numpy.uint32, "I32": numpy.int32, "F32": numpy.float32,
    "U64": numpy.uint64, "I64": numpy.int64, "F64": numpy.float64, "C64": numpy.complex64,
}  # fmt: skip


def _decoded(view: memoryview, dtype: str) -> Array:
    """Numbers of a dtype that numpy has; those that it lacks are widened."""
    if dtype == "BF16":
        return (numpy.frombuffer(view, numpy.uint16).astype(numpy.uint32) << 16).view(numpy.float32)
    if dtype in FLOAT8:
        found: Array = float8_values(dtype)[numpy.frombuffer(view, numpy.uint8)]
        return found
    return numpy.frombuffer(view, _PLAIN[dtype])
