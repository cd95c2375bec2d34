"""The members of a zip file in columns: torch writes one for each tensor, and numbers them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from preheat.errors import CheckpointValidationError

_LIMIT = 1 << 63
_SPARSE = 4  # numbers up to so many times as many as there are members are found by their place
_FIELDS = 7


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the archive. Its local header begins at `header`, the next thing in the archive at `stop`."""

    name: str
    header: int
    stop: int
    size: int  # in the archive
    method: int
    crc32: int | None  # None: switched off when the file was written
    flags: int
    extra: int  # bytes of the directory's extra field

    @property
    def after_name(self) -> int:
        """Where the local header's extra field begins, which pads the data to its alignment."""
        return self.header + 30 + len(self.name.encode())


class Numbering:
    """Names by their position, and the other way round; those that differ by a number alone take 12 bytes each."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}  # of those without a number
        self._names: dict[int, str] = {}
        self._prefix: str | None = None  # of those with one
        self._numbers = array("i")  # by row; -1 where there is none
        self._numbered = array("i")  # rows by number, counted from 1; 0 where there is none

    def add(self, name: str) -> None:
        """Put a name, which must be new, behind the others."""
        row = len(self._numbers)
        prefix, number = _numbered(name)
        if self._prefix is None and number >= 0:
            self._prefix = prefix
        if number >= 0 and prefix == self._prefix and number < _SPARSE * (row + 256):
            self._numbered.extend([0] * (number + 1 - len(self._numbered)))
            self._numbered[number] = row + 1
            self._numbers.append(number)
        else:
            self._rows[name], self._names[row] = row, name
            self._numbers.append(-1)

    def row(self, name: str) -> int:
        """The position of a name; -1 for one that is not there."""
        prefix, number = _numbered(name)
        if 0 <= number < len(self._numbered) and prefix == self._prefix and self._numbered[number]:
            return self._numbered[number] - 1
        return self._rows.get(name, -1)

    def name(self, row: int) -> str:
        """The name at a position."""
        number = self._numbers[row]
        return f"{self._prefix}{number}" if number >= 0 else self._names[row]

    def __len__(self) -> int:
        return len(self._numbers)


class Directory(Mapping[str, Member]):
    """Members by name, in the order in which they were added."""

    def __init__(self) -> None:
        self.numbering = Numbering()
        self._fields = array("q")  # _FIELDS for each member

    def add(self, member: Member) -> None:
        """Put a member behind the others; raises CheckpointValidationError for a name that is there."""
        if member.name in self:
            raise CheckpointValidationError(
                f"the zip file has two members called {member.name!r}; readers disagree on which one counts",
                remedy="Save the checkpoint again with torch.save",
            )
        crc32 = -1 if member.crc32 is None else member.crc32
        fields = (member.header, member.stop, member.size, member.method, crc32, member.flags, member.extra)
        if max(fields) >= _LIMIT:
            raise CheckpointValidationError(f"the zip member {member.name!r} lies where no file has bytes")
        self.numbering.add(member.name)
        self._fields.extend(fields)

    def bound(self, stop: int) -> None:
        """Say of each where it ends at the latest: where the next begins, the last at `stop`.

        Raises CheckpointValidationError when two overlap, or bytes stand before the first.
        """
        headers = self._fields[::_FIELDS]
        order = sorted(range(len(headers)), key=headers.__getitem__)
        if headers[order[0]] != 0:
            raise CheckpointValidationError(f"{headers[order[0]]} bytes stand before the first member of the zip file")
        for row in reversed(order):
            self._fields[row * _FIELDS + 1] = stop
            stop = headers[row]
        for member in self.values():
            if member.after_name + member.size > member.stop:
                raise CheckpointValidationError(
                    f"the zip member {member.name!r} needs bytes {member.header}...{member.after_name + member.size} "
                    f"and overlaps what begins at byte {member.stop}"
                )

    def __getitem__(self, name: str) -> Member:
        row = self.numbering.row(name)
        if row < 0:
            raise KeyError(name)
        header, stop, size, method, crc32, flags, extra = self._fields[row * _FIELDS : (row + 1) * _FIELDS]
        return Member(name, header, stop, size, method, None if crc32 < 0 else crc32, flags, extra)

    def __iter__(self) -> Iterator[str]:
        return map(self.numbering.name, range(len(self)))

    def __len__(self) -> int:
        return len(self.numbering)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.numbering.row(name) >= 0


def _numbered(name: str) -> tuple[str, int]:
    """A name as what is before its number, and the number; -1 when it does not end in one that is written so."""
    prefix, slash, digits = name.rpartition("/")
    if digits.isascii() and digits.isdecimal() and len(digits) < 10 and (digits == "0" or digits[0] != "0"):
        return prefix + slash, int(digits)
    return name, -1
