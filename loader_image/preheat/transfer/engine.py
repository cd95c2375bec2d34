"""Executes a plan: ranges of the source into the output file, checked as they pass, in memory that does not grow.

Each thread has one buffer, small enough to stay in the processor's cache between read, checks and write. That is as
fast as a copy within the kernel, so there is no separate way for bytes that nothing has to look at.
"""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from preheat.blob import Blob
from preheat.bundle.storage import storage_errors
from preheat.checks import Checks, Findings
from preheat.errors import TruncatedError
from preheat.index import Record
from preheat.moves import coalesce
from preheat.packed import numbers_of
from preheat.plan import Gathering, Plan, reach_of
from preheat.transfer.checksum import crc32
from preheat.transfer.digests import Digests
from preheat.transfer.journal import Journal
from preheat.transfer.output import checksum_of, opened
from preheat.transfer.pace import LOCAL, REMOTE, ramped
from preheat.transfer.passed import Passed, identity
from preheat.transfer.pieces import Outputs, Piece, Records
from preheat.transfer.placement import Placement, finite_check, write
from preheat.transfer.reading import read_piece
from preheat.transfer.workers import work_off

MAX_GAP = 4096  # bytes between two spans that are cheaper read than asked around
GATHERERS = 4  # threads that gather, each with blocks of its own in memory
SPAN = 1 << 40  # spans are cut into pieces here, where a cut may go through a tensor


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Transferred:
    """What the transfer learned: checksums of the output's tensors, and how many records were compared."""

    checksums: Mapping[str, int]
    records: int


def transfer(
    plan: Plan,
    blob: Blob,
    path: Path,
    checks: Checks,
    advance: Callable[[int], None] = lambda count: None,
    findings: Findings | None = None,
    journal: Path | None = None,
) -> Transferred:
    """Write the plan's output to the new file `path`; `advance` is told of bytes of the source as they pass.

    What is finished is written down in `journal`; another transfer with the same arguments goes on from there. Raises a
    CheckpointError that names tensor and byte range, unless `findings` keep it. The file is then incomplete, and the
    blob closed.
    """
    _check_present(plan, blob)
    with storage_errors(path.parent):
        kept = Journal(journal, identity(plan, blob, checks)) if journal else None
        try:
            with opened(path, plan.output_bytes, kept) as target:
                _write_header(target, plan)
                return _Transfer(plan, blob, target, checks, advance, findings or Findings(), kept).run()
        finally:
            if kept:
                kept.close()


class _Transfer:
    def __init__(
        self,
        plan: Plan,
        blob: Blob,
        target: int,
        checks: Checks,
        advance: Callable[[int], None],
        findings: Findings,
        journal: Journal | None,
    ) -> None:
        self._plan = plan
        self._blob = blob
        self._target = target
        self._checks = checks
        self._findings = findings
        self._finite = findings if checks.finite else None
        self._digests = Digests(blob, checks)
        self._pace = REMOTE if blob.remote else LOCAL
        self._advance = advance
        self._size, self._received = ramped(self._pace, advance)
        self._journal = journal
        self._warned = findings.warnings
        self._found: dict[tuple[int, int], Passed] = {}  # by the bytes [start, stop) of a piece

    def run(self) -> Transferred:
        self._recall()
        rest = (piece for piece in self._pieces() if (piece.start, piece.stop) not in self._found)
        work_off(rest, self._size, self._move_pieces, self._blob.close)
        self._digests.compare(self._findings)
        checksums = numbers_of(self._plan.index.tensors)
        records = self._put_together(checksums)
        self._gather_all(checksums)
        return Transferred(checksums, records)

    def _put_together(self, checksums: MutableMapping[str, int]) -> int:
        """Tell the checksums of the tensors that were moved, and return how many records were compared."""
        outputs, records = Outputs(self._plan.moves), Records(self._names, self._findings)
        for piece in self._pieces():  # once more: all stretches at once would take far more memory than their checksums
            passed = self._found.pop((piece.start, piece.stop))
            for stretch, checksum in zip(piece.stretches, passed.stretches, strict=True):
                outputs.add(stretch, checksum)
                if self._checks.crc32:
                    records.add(stretch, checksum)
            for target, checksum, length in passed.casts():
                outputs.append(target, checksum, length)
        outputs.tell(checksums)
        return records.finish()

    def _pieces(self) -> Iterator[Piece]:
        spans = coalesce(self._plan.moves, max_gap=MAX_GAP, max_length=SPAN)
        total = self._blob.size if self._checks.whole else sum(span.stop - span.start for span in spans)
        return self._digests.pieces(spans, self._pace.piece_of(total))

    def _recall(self) -> None:
        """Find again what an earlier transfer has finished."""
        known = self._journal.found if self._journal else {}

        def work(pieces: Iterator[Piece]) -> None:
            buffer = memoryview(bytearray(LOCAL.buffer))
            for piece in pieces:
                passed = Passed.from_json(known[_key(piece)])
                if all(checksum_of(self._target, at, n, buffer) == found for at, n, found in passed.written(piece)):
                    self._digests.recall(piece, passed.digests)
                    self._found[piece.start, piece.stop] = passed
                    self._advance(piece.stop - piece.start)

        if known:
            pieces = (piece for piece in self._pieces() if _key(piece) in known)
            work_off(pieces, LOCAL.threads, work, self._blob.close)
            log.info("going on where another loader ended: %d pieces are there already", len(self._found))

    def _names(self) -> dict[Record, str]:
        return {move.tensor.record: move.name for move in self._plan.moves}

    def _move_pieces(self, pieces: Iterator[Piece]) -> None:
        """One thread's work."""
        buffer = memoryview(bytearray(self._pace.buffer_of(self._size())))
        placement = Placement(self._target, self._finite)
        for piece in pieces:
            watch = self._digests.of(piece, self._received)
            read = read_piece(self._blob, piece, buffer, placement.place, watch)
            checksums = array("I", (checksum for _, checksum in read))
            passed = Passed(checksums, placement.take_cast(), self._digests.taken(piece))
            self._found[piece.start, piece.stop] = passed
            self._finished(_key(piece), passed.to_json())

    def _finished(self, key: str, value: Any) -> None:
        # What is not written down passes again, and what it was warned of is found again.
        if self._journal and self._findings.warnings == self._warned:
            self._journal.add(key, value)

    def _gather_all(self, found: MutableMapping[str, int]) -> None:
        """Write what has to be gathered, and add the checksums to `found`."""
        known = self._journal.found if self._journal else {}

        def work(gatherings: Iterator[Gathering]) -> None:
            from preheat.transfer.gather import gather  # numpy is imported when a tensor needs it

            buffer = memoryview(bytearray(LOCAL.buffer))
            for each in gatherings:
                key, size = f"gathered {each.target}", each.tensor.final_size
                if key not in known or known[key] != checksum_of(self._target, each.target, size, buffer):
                    for offset, run in gather(self._blob, each.tensor, self._cast_of(each)):
                        write(self._target, run, each.target + offset)
                found[each.name] = self._read_back(each)
                self._finished(key, found[each.name])

        if self._plan.gatherings:
            work_off(self._plan.gatherings, min(self._pace.threads, GATHERERS), work, self._blob.close)

    def _cast_of(self, each: Gathering) -> Callable[[Any], Any]:
        if not each.tensor.cast:
            return lambda values: values
        return partial(Placement(self._target, self._finite).casting().values, each.name, each.tensor)

    def _read_back(self, each: Gathering) -> int:
        """The checksum of a tensor whose bytes were written in any order."""
        finite = finite_check(self._finite) if self._finite else None
        checksum = 0
        size = each.tensor.final_size
        for offset in range(0, size, self._pace.buffer):
            count = min(self._pace.buffer, size - offset)
            values = os.pread(self._target, count, each.target + offset)
            checksum = crc32(values, checksum)
            if finite:
                finite.feed(each.name, each.tensor.final_dtype, memoryview(values))
        return checksum


def _write_header(target: int, plan: Plan) -> None:
    at = 0
    for piece in plan.header.pieces():
        write(target, piece, at)
        at += len(piece)


def _key(piece: Piece) -> str:
    return f"{piece.start}-{piece.stop}"


def _check_present(plan: Plan, blob: Blob) -> None:
    gathered = ((each.name, *reach_of(stored)) for each in plan.gatherings for stored in each.tensor.stored())
    moved = ((plan.moves[at].name, *reach) for at, reach in enumerate(plan.moves.reaches()) if reach[1] > blob.size)
    for name, start, stop in chain(moved, gathered):
        if stop > blob.size:
            raise TruncatedError(
                f"tensor {name!r} needs bytes {start}...{stop}; the file ends at {blob.size}",
                remedy="Copy or upload the checkpoint again",
            )
