"""Tensors by name in columns: what 100,000 of them take in memory, and what a garbage collector has to walk through.

A tensor that is asked for is made anew, equal to the one that was added. What is seldom (a tensor saved in parts, a
position beyond 63 bits) is kept as it is.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, MutableMapping

from preheat.index import Record, Tensor

#: Dtype, shape, strides, cast, and how the record's name begins: few of each, however many tensors there are.
_Kind = tuple[str, tuple[int, ...], tuple[int, ...] | None, str | None, str]

_LIKE_THE_TENSOR, _WHOLE = -1, -2  # how a record's name ends where it does not end in a number
_NO_CRC = -1
_LIMIT = 1 << 63
_WIDTH = 5


class PackedTensors(Mapping[str, Tensor]):
    """A mapping that is filled by `add` and then left as it is."""

    def __init__(self, tensors: Iterable[tuple[str, Tensor]] = ()) -> None:
        self._rows: dict[str, int] = {}
        self._numbers: dict[_Kind, int] = {}
        self._kinds: list[_Kind] = []
        self._odd: dict[int, Tensor] = {}
        self._kind = array("I")
        self._places = array("q")  # _WIDTH for each: the record's start, stop, CRC-32 and end of its name; the offset
        for name, tensor in tensors:
            self.add(name, tensor)

    def add(self, name: str, tensor: Tensor) -> None:
        """Put a tensor behind the others; its name must be new."""
        record = tensor.record
        crc32 = _NO_CRC if record.crc32 is None else record.crc32
        begin, end = _taken_apart(record.name, name)
        row = (record.start, record.stop, crc32, end, tensor.offset)
        odd = bool(tensor.parts) or max(row) >= _LIMIT or min(row) < -_LIMIT
        if odd:
            self._odd[len(self._rows)] = tensor
        known: _Kind = (tensor.dtype, tensor.shape, tensor.strides, tensor.cast, begin)
        kind = ("", (), None, None, "") if odd else known
        number = self._numbers.setdefault(kind, len(self._kinds))
        if number == len(self._kinds):
            self._kinds.append(kind)
        self._kind.append(number)
        self._places.extend((0,) * _WIDTH if odd else row)
        self._rows[name] = len(self._rows)

    def __getitem__(self, name: str) -> Tensor:
        row = self._rows[name]
        if self._odd and row in self._odd:
            return self._odd[row]
        dtype, shape, strides, cast, begin = self._kinds[self._kind[row]]
        start, stop, crc32, end, offset = self._places[row * _WIDTH : (row + 1) * _WIDTH]
        called = begin + (str(end) if end >= 0 else name if end == _LIKE_THE_TENSOR else "")
        return Tensor(dtype, shape, Record(called, start, stop, crc32 if crc32 >= 0 else None), offset, strides, cast)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows


class PackedNumbers(MutableMapping[str, int]):
    """A number from 0 to 2^63 for some of the tensors, by the names that are there already."""

    def __init__(self, rows: Mapping[str, int]) -> None:
        self._rows = rows
        self._numbers = array("q", bytes(8 * len(rows)))  # one more than the number; 0 where there is none

    def __getitem__(self, name: str) -> int:
        if number := self._numbers[self._rows[name]]:
            return number - 1
        raise KeyError(name)

    def __setitem__(self, name: str, number: int) -> None:
        self._numbers[self._rows[name]] = number + 1

    def __delitem__(self, name: str) -> None:
        self._numbers[self._rows[name]] = 0

    def __iter__(self) -> Iterator[str]:
        return (name for name, row in self._rows.items() if self._numbers[row])

    def __len__(self) -> int:
        return sum(1 for _ in self)


def numbers_of(tensors: Mapping[str, Tensor]) -> MutableMapping[str, int]:
    """Room for a number for each of the tensors, none of which has one yet."""
    return PackedNumbers(tensors._rows) if isinstance(tensors, PackedTensors) else {}


def _taken_apart(record: str, name: str) -> tuple[str, int]:
    """A record's name as its beginning, shared with many others, and its end."""
    if record.endswith(name):
        return record.removesuffix(name), _LIKE_THE_TENSOR
    begin = record.rstrip("0123456789")
    digits = record[len(begin) :]
    if 0 < len(digits) < 19 and digits == str(int(digits)):
        return begin, int(digits)
    return record, _WHOLE
