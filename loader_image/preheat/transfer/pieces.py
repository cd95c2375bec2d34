"""A plan cut into pieces that several threads move at once: pure arithmetic, no I/O.

Within a piece every byte belongs to one stretch: a run of bytes with the same record around it and the same tensors in
it. The checksum of each stretch is computed once, and those of records and tensors are combined from them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, pairwise, takewhile

from preheat.checks import Findings
from preheat.errors import CheckpointValidationError
from preheat.index import Record
from preheat.moves import Move, Moves, Span
from preheat.transfer.checksum import combine

#: A cut is a multiple of this from its record's start, so that it splits no element of any tensor there.
ALIGNMENT = 64
#: Stretches in a piece, where it can be cut: of small tensors a long piece holds tens of thousands.
MOST = 1024
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
    stretches: Iterable[Stretch]  # as often as they are asked for


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


def of_files(spans: Sequence[Span], borders: Iterable[int]) -> Iterator[Piece]:
    """One piece between each two `borders`, for checksums that need a file's bytes in order."""
    for start, stop in pairwise(borders):
        yield Piece(start, stop, _Within(spans, start, stop))


@dataclass(frozen=True, slots=True)
class _Within:
    """The stretches of one file, made anew whenever they are asked for: a file has as many as it has tensors."""

    spans: Sequence[Span]
    start: int
    stop: int

    def __iter__(self) -> Iterator[Stretch]:
        first = max(bisect_right(self.spans, self.start, key=lambda span: span.start) - 1, 0)
        for span in takewhile(lambda span: span.start < self.stop, islice(self.spans, first, None)):
            begin, end = (
                bisect_left(span.moves, edge, key=lambda move: move.start) for edge in (self.start, self.stop)
            )
            yield from _stretches(Span(span.start, span.stop, span.moves[begin:end]))


def _empty(start: int, stop: int, length: int) -> Iterator[Piece]:
    for begin in range(start, stop, length):
        yield Piece(begin, min(begin + length, stop), ())


def _stretches(span: Span) -> Iterator[Stretch]:
    for part in span.apart():
        if alone := _alone(part):
            yield alone
        else:
            yield from _stretches_of(part)


def _alone(span: Span) -> Stretch | None:
    """The span as it is, when all of it is one tensor: that is what most are, and said in no time."""
    move = span.moves[0]
    tensor, record = move.tensor, move.tensor.record
    if (
        len(span.moves) > 1
        or move.target is None
        or (tensor.start, tensor.size) != (span.start, span.stop - span.start)
    ):
        return None
    whole = record.crc32 is not None and span.start <= record.start and record.stop <= span.stop
    return Stretch(span.start, span.stop, record if whole else None, (move,))


def _stretches_of(span: Span) -> Iterator[Stretch]:
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
        if len(taken) >= MOST and _cut_near(rest, rest.start) == rest.start:
            yield Piece(start, rest.start, tuple(taken))
            start, taken = rest.start, []
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


class Records:
    """Compares records with the checksums that they declare. Feed it in the order of the bytes."""

    def __init__(self, names: Callable[[], Mapping[Record, str]], findings: Findings) -> None:
        """`names` says whose bytes are in a record; it is asked when one is corrupt."""
        self._names = cache(names)
        self._findings = findings
        self._last: Record | None = None
        self._checksum = 0
        self._count = 0

    def add(self, stretch: Stretch, checksum: int) -> None:
        """Append a stretch; those of a record come in a row."""
        if stretch.record != self._last:
            self.finish()
            self._last = stretch.record
        self._checksum = combine(self._checksum, checksum, stretch.stop - stretch.start)

    def finish(self) -> int:
        """Compare the last one too, and return how many there were."""
        record, checksum = self._last, self._checksum
        self._last, self._checksum = None, 0
        if record:
            self._count += 1
            if checksum != record.crc32:
                self._findings.add("crc32", mismatch(record, checksum, self._names().get(record, record.name)))
        return self._count


class Outputs:
    """Puts checksums of stretches together to those of tensors as they are in the output."""

    def __init__(self, moves: Moves) -> None:
        self._moves = moves.in_the_output()
        self._targets = self._moves.targets()
        self._checksums = array("I", bytes(4 * len(self._targets)))

    def add(self, stretch: Stretch, checksum: int) -> None:
        """Append a stretch to what its moves bring uncast; feed it in the order of the bytes."""
        for move in stretch.moves:
            if not move.tensor.cast and move.target is not None:
                self.append(move.target, checksum, stretch.stop - stretch.start)

    def append(self, target: int, checksum: int, length: int) -> None:
        """Append some of what a move brings to `target`."""
        at = bisect_left(self._targets, target)
        self._checksums[at] = combine(self._checksums[at], checksum, length)

    def tell(self, found: MutableMapping[str, int]) -> None:
        """Add the checksums of all tensors that are brought to `found`, by name."""
        for at, (name, checksum) in enumerate(zip(self._moves.names(), self._checksums, strict=True)):
            before = found.get(name)  # another part of it
            length = 0 if before is None else self._moves[at].tensor.final_size
            found[name] = checksum if before is None else combine(before, checksum, length)


def mismatch(record: Record, checksum: int, tensor: str) -> CheckpointValidationError:
    """The bytes of a record are not those that its checksum was computed from."""
    return CheckpointValidationError(
        f"tensor {tensor!r} is corrupt: record {record.name!r}, bytes {record.start}...{record.stop}, has CRC-32 "
        f"{checksum:08x} and declares {record.crc32:08x}",
        remedy="Copy or upload the checkpoint again; if that does not help, the original is damaged",
    )
