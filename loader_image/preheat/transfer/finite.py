"""Whether tensors hold NaN or infinity: an exact test of their bits, on bytes as they pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy

from preheat.checks import Findings
from preheat.errors import CheckpointValidationError

# Per dtype: an unsigned integer of its width, what turns its bits so that those that are not finite come last, and the
# least of them. Mostly it is enough to leave out the sign.
_AND, _XOR = numpy.bitwise_and, numpy.bitwise_xor
_RULES: Mapping[str, tuple[Any, Any, int, int]] = {
    "F64": (numpy.uint64, _AND, 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F32": (numpy.uint32, _AND, 0x7FFF_FFFF, 0x7F80_0000),
    "C64": (numpy.uint32, _AND, 0x7FFF_FFFF, 0x7F80_0000),  # two F32
    "F16": (numpy.uint16, _AND, 0x7FFF, 0x7C00),
    "BF16": (numpy.uint16, _AND, 0x7FFF, 0x7F80),
    "F8_E5M2": (numpy.uint8, _AND, 0x7F, 0x7C),
    "F8_E4M3": (numpy.uint8, _AND, 0x7F, 0x7F),  # has NaN and no infinity, as those below
    "F8_E8M0": (numpy.uint8, _AND, 0xFF, 0xFF),  # has no sign
    "F8_E4M3FNUZ": (numpy.uint8, _XOR, 0x7F, 0xFF),  # NaN is the sign alone, 0x80
    "F8_E5M2FNUZ": (numpy.uint8, _XOR, 0x7F, 0xFF),
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
        width = numpy.dtype(_RULES[dtype][0]).itemsize
        if carried := self._carried.pop(name, b""):
            head = carried + bytes(view[: width - len(carried)])
            view = view[width - len(carried) :]
            if len(head) < width:
                self._carried[name] = head
                return
            self._look(name, memoryview(head), *_RULES[dtype])
        whole = len(view) // width * width
        if whole < len(view):
            self._carried[name] = bytes(view[whole:])
        self._look(name, view[:whole], *_RULES[dtype])

    def _look(self, name: str, view: memoryview, kind: Any, turn: Any, mask: int, limit: int) -> None:
        for start in range(0, len(view), _BLOCK):
            values = numpy.frombuffer(view[start : start + _BLOCK], kind)
            scratch = self._scratch[: values.nbytes].view(kind)
            if turn(values, kind(mask), out=scratch).max() >= limit:
                error = CheckpointValidationError(
                    f"tensor {name!r} holds NaN or infinity",
                    remedy="Take an earlier checkpoint, or set finite: false in the verify stage",
                )
                self._findings.add("finite", error)
                self._told.add(name)
                return
