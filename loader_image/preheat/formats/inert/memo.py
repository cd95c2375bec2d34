"""Which values of a pickle are referred to again: all others need not be remembered.

Picklers give every value a number in case that they meet it twice. Of a checkpoint with 100,000 tensors that is most of
what reading it would hold in memory. Before protocol 4 the numbers are written, from then on they are counted.
"""

from __future__ import annotations

WORTH_IT = 1 << 20  # bytes of a pickle that is walked through twice for this

_FIXED = {
    b"J": 4, b"K": 1, b"M": 2, b"G": 8, b"\x80": 1, b"\x95": 8, b"q": 1, b"r": 4, b"\x82": 1, b"\x83": 2, b"\x84": 4,
}  # fmt: skip
_PREFIXED = {
    b"T": 4, b"U": 1, b"X": 4, b"\x8c": 1, b"\x8d": 8, b"B": 4, b"C": 1, b"\x8e": 8, b"\x96": 8, b"\x8a": 1, b"\x8b": 4,
}  # fmt: skip
_LINES = {b"I": 1, b"L": 1, b"F": 1, b"S": 1, b"V": 1, b"p": 1, b"P": 1, b"c": 2, b"i": 2}
_GETS = {b"h": 1, b"j": 4}

_SKIP = [_FIXED.get(bytes([code]), 0) for code in range(256)]
_WRITTEN, _COUNTED = (b"q", b"r", b"p"), b"\x94"
_SPECIAL = frozenset(ord(code) for code in (*_PREFIXED, *_LINES, *_GETS, b"g", b".", _COUNTED))
_SPECIAL_COUNTED = _SPECIAL.union(map(ord, _WRITTEN)) - {ord(_COUNTED)}


def counts(data: bytes, start: int) -> bool:
    """Whether the pickle is of a protocol whose values are numbered by counting."""
    return data[start : start + 1] == b"\x80" and data[start + 1 : start + 2] >= b"\x04"


def asked_for(data: bytes, start: int) -> frozenset[int] | None:
    """The numbers by which the pickle at byte `start` refers to its values; None where that cannot be told ahead.

    Reads no further than the pickle does; what makes no sense is left for the machine to say.
    """
    asked: set[int] = set()
    at = start
    special = _SPECIAL_COUNTED if counts(data, start) else _SPECIAL
    refused = (b"g", *_WRITTEN) if special is _SPECIAL_COUNTED else (b"g", _COUNTED)
    try:
        while True:
            code = data[at]
            at += 1
            if code not in special:
                at += _SKIP[code]
                continue
            opcode = data[at - 1 : at]
            if opcode == b".":
                return frozenset(asked)
            if opcode in refused:  # numbers of both kinds, or in digits: nobody writes that
                return None
            if width := _GETS.get(opcode):
                asked.add(int.from_bytes(data[at : at + width], "little"))
                at += width
            elif width := _PREFIXED.get(opcode):
                at += width + int.from_bytes(data[at : at + width], "little")
            else:
                for _ in range(_LINES[opcode]):
                    at = data.index(b"\n", at) + 1
    except (IndexError, ValueError):
        return None
