"""Casts floating values from one dtype to another as torch does: in blocks, on bytes as they pass.

Rounds to the nearest, ties to even; what is too large becomes infinite; NaN stays NaN. As in torch, all ways lead
through float32, so float64 is rounded twice on its way to the 16-bit dtypes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy

from preheat.checks import Findings
from preheat.errors import CheckpointValidationError
from preheat.index import FLOAT8, ITEMSIZE, Tensor
from preheat.transfer.finite import FiniteCheck
from preheat.transfer.float8 import float8_values

Array = Any  # flat, of numpy; mypy does not know that its arrays are buffers

_BLOCK = 32 * 1024  # elements: their copies stay in the processor's cache
_UNSIGNED = {1: numpy.uint8, 2: numpy.uint16, 4: numpy.uint32, 8: numpy.uint64}


class Casting:
    """Casts tensors whose bytes arrive in order and in pieces. One per thread; holds no more than one element of each.

    Given `findings`, a value that is not finite, or no longer is, is one of them.
    """

    def __init__(self, findings: Findings | None) -> None:
        self._findings = findings
        self._strict = FiniteCheck(Findings())
        self._told: set[str] = set()  # tensors that were found; one value is enough
        self._carried: dict[tuple[str, int], bytes] = {}  # by tensor: the beginning of an element that a piece cut

    def feed(self, name: str, tensor: Tensor, at: int, view: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Cast the next bytes of a tensor, from byte `at` of it; yields (byte of the result, bytes)."""
        width, result_width = ITEMSIZE[tensor.dtype], ITEMSIZE[tensor.final_dtype]
        key = name, tensor.start
        if carried := self._carried.pop(key, b""):
            at -= len(carried)
            missing = width - len(carried)
            head, view = carried + bytes(view[:missing]), view[missing:]
            if len(head) < width:
                self._carried[key] = head
                return
            yield at // width * result_width, _bytes(self.values(name, tensor, head))
            at += width
        whole = len(view) // width * width
        if whole < len(view):
            self._carried[key] = bytes(view[whole:])
        for start in range(0, whole, _BLOCK * width):
            block = view[start : min(start + _BLOCK * width, whole)]
            yield (at + start) // width * result_width, _bytes(self.values(name, tensor, block))

    def values(self, name: str, tensor: Tensor, source: bytes | memoryview | Array) -> Array:
        """Whole elements, cast, as flat unsigned integers."""
        result = cast(source, tensor.dtype, tensor.final_dtype)
        if self._findings and name not in self._told and self._fault(name, tensor.final_dtype, _bytes(result)):
            before = self._fault(name, tensor.dtype, memoryview(source).cast("B"))
            self._findings.add("finite", before or _overflow(name, tensor.final_dtype))
            self._told.add(name)
        return result

    def _fault(self, name: str, dtype: str, values: memoryview) -> CheckpointValidationError | None:
        try:
            self._strict.feed(name, dtype, values)
        except CheckpointValidationError as error:
            return error
        return None


def _overflow(name: str, dtype: str) -> CheckpointValidationError:
    return CheckpointValidationError(
        f"tensor {name!r} holds values that {dtype} cannot: the cast makes them infinite",
        remedy="Convert to bfloat16 or float32, or set finite: false in the verify stage",
    )


def cast(source: bytes | memoryview | Array, dtype: str, target: str) -> Array:
    """Whole elements of `dtype` as an array of as many elements of `target`, flat, as unsigned integers."""
    bits = numpy.frombuffer(source, _UNSIGNED[ITEMSIZE[dtype]])
    result = numpy.empty(len(bits), _UNSIGNED[ITEMSIZE[target]])
    for start in range(0, len(bits), _BLOCK):
        values = _to_float32(bits[start : start + _BLOCK], dtype)
        result[start : start + _BLOCK] = _from_float32(values, target)
    return result


def _bytes(values: Array) -> memoryview:
    return memoryview(values).cast("B")


def _to_float32(bits: Array, dtype: str) -> Array:
    if dtype == "BF16":
        return (bits.astype(numpy.uint32) << 16).view(numpy.float32)
    if dtype in FLOAT8:
        return float8_values(dtype)[bits]
    kind = {"F64": numpy.float64, "F32": numpy.float32, "F16": numpy.float16}[dtype]
    with numpy.errstate(over="ignore", invalid="ignore"):
        return bits.view(kind).astype(numpy.float32, copy=False)


def _from_float32(values: Array, target: str) -> Array:
    if target == "F32":
        return values.view(numpy.uint32)
    if target == "F16":
        with numpy.errstate(over="ignore", under="ignore", invalid="ignore"):
            return values.astype(numpy.float16).view(numpy.uint16)
    bits = values.view(numpy.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += bits
    rounded += 0x7FFF  # a carry into the exponent is right, up to infinity
    rounded >>= 16
    nan = numpy.isnan(values)
    if nan.any():  # rounding may have carried them into infinity or beyond
        rounded[nan] = bits[nan] >> 16 | 0x40
    return rounded.astype(numpy.uint16)
