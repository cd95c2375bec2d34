"""Whether tensors hold NaN or infinity: an exact test of their bits, on bytes as they pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy

from preheat.checks import Findings
from preheat.errors import CheckpointValidationError

# Per dtype: an unsigned integer of its width, the bits without the sign, and the least value that is not finite.
_RULES: Mapping[str, tuple[Any, int, int]] = {
    "F64": (numpy.uint64, 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F32": (numpy.uint32, 0x7FFF_FFFF, 0x7F80_0000),
    "C64": (numpy.uint32, 0x7FFF_FFFF, 0x7F80_0000),  # two F32
    "F16": (numpy.uint16, 0x7FFF, 0x7C00),
    "BF16": (numpy.uint16, 0x7FFF, 0x7F80),
    "F8_E5M2": (numpy.uint8, 0x7F, 0x7C),
    "F8_E4M3": (numpy.uint8, 0x7F, 0x7F),  # has NaN and no infinity
}
_BLOCK = 128 * 1024  # bytes whose masked copy stays in the processor's cache


class FiniteCheck:
    """Looks at tensors whose bytes arrive in order and in pieces. One per thread; holds no more than one element."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._told: set[str] = set()  # tensors that were found; one value is enough
        self._scratch = numpy.empty(_BLOCK, numpy.uint8)
        self._carried: dict[str, bytes] = {}  # by tensor: the beginning of an element that a piece cut

    def feed(self, name: str, dtype: str, view: memoryview) -> None:
        """Look at the next bytes of a tensor; the first NaN or infinity is a finding."""
        if dtype not in _RULES or name in self._told:
            return
        kind, mask, limit = _RULES[dtype]
        width = numpy.dtype(kind).itemsize
        if carried := self._carried.pop(name, b""):
            head = carried + bytes(view[: width - len(carried)])
            view = view[width - len(carried) :]
            if len(head) < width:
                self._carried[name] = head
                return
            self._look(name, memoryview(head), kind, mask, limit)
        whole = len(view) // width * width
        if whole < len(view):
            self._carried[name] = bytes(view[whole:])
        self._look(name, view[:whole], kind, mask, limit)

    def _look(self, name: str, view: memoryview, kind: Any, mask: int, limit: int) -> None:
        for start in range(0, len(view), _BLOCK):
            values = numpy.frombuffer(view[start : start + _BLOCK], kind)
            scratch = self._scratch[: values.nbytes].view(kind)
            if numpy.bitwise_and(values, kind(mask), out=scratch).max() >= limit:
                error = CheckpointValidationError(
                    f"tensor {name!r} holds NaN or infinity",
                    remedy="Take an earlier checkpoint, or set finite: false in the verify stage",
                )
                self._findings.add("finite", error)
                self._told.add(name)
                return
