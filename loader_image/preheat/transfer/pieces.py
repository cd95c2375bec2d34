"""A plan cut into pieces that several threads move at once: pure arithmetic, no I/O.

Within a piece every byte belongs to one stretch: a run of bytes with the same record around it and the same tensors in
it. The checksum of each stretch is computed once, and those of records and tensors are combined from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from preheat.checks import Findings
from preheat.errors import CheckpointValidationError
from preheat.index import Record
from preheat.plan import Move, Span
from preheat.transfer.checksum import combine

#: A cut is a multiple of this from its record's start, so that it splits no element of any tensor there.
ALIGNMENT = 64
#: Different tensors that may hold one byte; tied ones count once. Without a limit n of them could ask for n * n work.
MAX_SHARED = 64


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes [start, stop) of the source; uncast, they go to `target - tensor.start + start` for every move."""

    start: int
    stop: int
    record: Record | None  # set when the record passes as a whole and carries a checksum
    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one thread reads in one go. The stretches are in order; bytes between them are dropped."""

    start: int
    stop: int
    stretches: tuple[Stretch, ...]


def pieces_of(spans: Iterable[Span], length: int) -> Iterator[Piece]:
    """Pieces of about `length` bytes that cover the spans, in the order of their bytes."""
    for span in spans:
        yield from _cut(span.stop, _stretches(span), length, span.start)


def covering(spans: Iterable[Span], size: int, length: int) -> Iterator[Piece]:
    """Pieces of about `length` bytes that hold every byte of `size`, those between the spans too."""
    at = 0
    for piece in pieces_of(spans, length):
        yield from _empty(at, piece.start, length)
        yield piece
        at = piece.stop
    yield from _empty(at, size, length)


def of_files(spans: Iterable[Span], borders: Iterable[int]) -> Iterator[Piece]:
    """One piece between each two `borders`, for checksums that need a file's bytes in order."""
    stretches = (stretch for span in spans for stretch in _stretches(span))
    coming = next(stretches, None)
    for start, stop in pairwise(borders):
        taken = list[Stretch]()
        while coming and coming.start < stop:
            taken.append(coming)
            coming = next(stretches, None)
        yield Piece(start, stop, tuple(taken))


def _empty(start: int, stop: int, length: int) -> Iterator[Piece]:
    for begin in range(start, stop, length):
        yield Piece(begin, min(begin + length, stop), ())


def _stretches(span: Span) -> Iterator[Stretch]:
    records = [record for record in span.records if record.crc32 is not None]
    copied = [move for move in span.moves if move.target is not None]
    edges = {edge for record in records for edge in (record.start, record.stop)}
    edges.update(edge for move in copied for edge in (move.tensor.start, move.tensor.start + move.tensor.size))
    copied.sort(key=lambda move: move.tensor.start)
    ordered, active, coming, at_record = sorted(edges), list[Move](), 0, 0
    for start, stop in pairwise(ordered):
        active = [move for move in active if move.tensor.start + move.tensor.size > start]
        while coming < len(copied) and copied[coming].tensor.start <= start:
            active.append(copied[coming])
            coming += 1
        if len(active) > MAX_SHARED:
            raise CheckpointValidationError(
                f"more than {MAX_SHARED} different tensors, {active[-1].name!r} among them, share byte {start}",
                remedy="Save the checkpoint with clones of its tensors",
            )
        while at_record < len(records) and records[at_record].stop <= start:
            at_record += 1
        record = records[at_record] if at_record < len(records) and records[at_record].start <= start else None
        if record or active:
            yield Stretch(start, stop, record, tuple(active))


def _cut(end: int, stretches: Iterable[Stretch], length: int, begin: int) -> Iterator[Piece]:
    start, taken = begin, list[Stretch]()
    for stretch in stretches:
        rest = stretch
        while rest.stop - start > length:
            cut = _cut_near(rest, start + length)
            if cut >= rest.stop:
                break  # the next one is cut: this piece is a little longer
            if cut > rest.start:
                taken.append(Stretch(rest.start, cut, rest.record, rest.moves))
                rest = Stretch(cut, rest.stop, rest.record, rest.moves)
            if cut > start:
                yield Piece(start, cut, tuple(taken))
            start, taken = cut, []
        taken.append(rest)
    if start < end:
        yield Piece(start, end, tuple(taken))


def _cut_near(stretch: Stretch, limit: int) -> int:
    """The last cut up to `limit`, else the first one in the stretch or behind it."""
    origin = stretch.record.start if stretch.record else stretch.moves[0].tensor.record.start
    first = stretch.start + (origin - stretch.start) % ALIGNMENT
    return max(first, limit - (limit - origin) % ALIGNMENT)


class Checksums:
    """Puts checksums of stretches together to those of records, and of moves as they are in the output.

    Feed it in the order of the bytes.
    """

    def __init__(self) -> None:
        self._outputs: dict[int, int] = {}  # by first byte in the output
        self._records: dict[Record, int] = {}

    def add(self, stretch: Stretch, checksum: int) -> None:
        """Append a stretch."""
        length = stretch.stop - stretch.start
        if stretch.record:
            self._records[stretch.record] = combine(self._records.get(stretch.record, 0), checksum, length)
        for move in stretch.moves:
            if not move.tensor.cast and move.target is not None:
                self.add_output(move.target, checksum, length)

    def add_output(self, target: int, checksum: int, length: int) -> None:
        """Append some of what a move brings to `target`."""
        self._outputs[target] = combine(self._outputs.get(target, 0), checksum, length)

    def tensors(self, moves: Iterable[Move]) -> dict[str, int]:
        """The checksums of the tensors that `moves` bring, part by part."""
        found: dict[str, int] = {}
        for move in sorted((move for move in moves if move.target is not None), key=lambda move: move.target or 0):
            checksum = self._outputs[move.target or 0]
            found[move.name] = combine(found.get(move.name, 0), checksum, move.tensor.final_size)
        return found

    def check(self, names: Mapping[Record, str], findings: Findings) -> int:
        """Compare every record with what it declares and return how many there were; `names` says whose bytes."""
        for record, checksum in self._records.items():
            if checksum != record.crc32:
                findings.add("crc32", mismatch(record, checksum, names.get(record, record.name)))
        return len(self._records)


def mismatch(record: Record, checksum: int, tensor: str) -> CheckpointValidationError:
    """The bytes of a record are not those that its checksum was computed from."""
    return CheckpointValidationError(
        f"tensor {tensor!r} is corrupt: record {record.name!r}, bytes {record.start}...{record.stop}, has CRC-32 "
        f"{checksum:08x} and declares {record.crc32:08x}",
        remedy="Copy or upload the checkpoint again; if that does not help, the original is damaged",
    )
