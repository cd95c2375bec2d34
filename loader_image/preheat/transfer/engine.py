"""Executes a plan: ranges of the source into the output file, checked as they pass, in memory that does not grow.

Each thread has one buffer, small enough to stay in the processor's cache between read, checks and write. That is as
fast as a copy within the kernel, so there is no separate way for bytes that nothing has to look at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from preheat.blob import Blob
from preheat.bundle.storage import require_space, storage_errors
from preheat.checks import Checks, Findings
from preheat.errors import TruncatedError
from preheat.index import Record
from preheat.plan import Gathering, Plan, coalesce, reach_of
from preheat.transfer.checksum import crc32
from preheat.transfer.digests import Digests
from preheat.transfer.pieces import Checksums, Piece, Stretch
from preheat.transfer.placement import Placement, finite_check, write
from preheat.transfer.reading import read_piece
from preheat.transfer.workers import work_off

MAX_GAP = 4096  # bytes between two spans that are cheaper read than asked around
GATHERERS = 4  # threads that gather, each with blocks of its own in memory
SPAN = 1 << 40  # spans are cut into pieces here, where a cut may go through a tensor


@dataclass(frozen=True)
class Pace:
    """How a source is read: threads, each with a buffer, and bytes per piece."""

    threads: int
    buffer: int
    piece: int


LOCAL = Pace(threads=2, buffer=1024 * 1024, piece=32 << 20)
REMOTE = Pace(threads=8, buffer=512 * 1024, piece=16 << 20)


@dataclass(frozen=True)
class _Passed:
    """The checksums of one piece: of its stretches as they were read, and of what was cast as it was written."""

    stretches: list[tuple[Stretch, int]]
    cast: dict[int, tuple[int, int]]  # by the move's target: checksum and bytes


@dataclass(frozen=True)
class Transferred:
    """What the transfer learned: checksums of the output's tensors, and how many records were compared."""

    checksums: dict[str, int]
    records: int


def transfer(
    plan: Plan,
    blob: Blob,
    path: Path,
    checks: Checks,
    advance: Callable[[int], None] = lambda count: None,
    findings: Findings | None = None,
) -> Transferred:
    """Write the plan's output to the new file `path`; `advance` is told of bytes of the source as they pass.

    Raises a CheckpointError that names tensor and byte range, unless `findings` keep it. The file is then incomplete,
    and the blob closed.
    """
    _check_present(plan, blob)
    with storage_errors(path.parent):
        require_space(path.parent, plan.output_bytes)
        target = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            os.truncate(target, plan.output_bytes)
            write(target, plan.header, 0)
            return _Transfer(plan, blob, target, checks, advance, findings or Findings()).run()
        finally:
            os.close(target)


class _Transfer:
    def __init__(
        self, plan: Plan, blob: Blob, target: int, checks: Checks, advance: Callable[[int], None], findings: Findings
    ) -> None:
        self._plan = plan
        self._blob = blob
        self._target = target
        self._checks = checks
        self._advance = advance
        self._findings = findings
        self._finite = findings if checks.finite else None
        self._digests = Digests(blob, checks)
        self._pace = REMOTE if blob.remote else LOCAL
        self._found: dict[int, _Passed] = {}  # by first byte of a piece

    def run(self) -> Transferred:
        spans = coalesce(self._plan.moves, max_gap=MAX_GAP, max_length=SPAN)
        pieces = self._digests.pieces(spans, self._pace.piece)
        work_off(pieces, self._pace.threads, self._move_pieces, self._blob.close)
        self._digests.compare(self._findings)
        checksums = Checksums()
        for start in sorted(self._found):
            for stretch, checksum in self._found[start].stretches:
                checksums.add(stretch, checksum)
            for target, (checksum, length) in self._found[start].cast.items():
                checksums.add_output(target, checksum, length)
        records = checksums.check(self._names(), self._findings) if self._checks.crc32 else 0
        return Transferred({**checksums.tensors(self._plan.moves), **self._gather_all()}, records)

    def _names(self) -> dict[Record, str]:
        return {move.tensor.record: move.name for move in self._plan.moves}

    def _move_pieces(self, pieces: Iterator[Piece]) -> None:
        """One thread's work."""
        buffer = memoryview(bytearray(self._pace.buffer))
        placement = Placement(self._target, self._finite)
        for piece in pieces:
            watch = self._digests.of(piece, self._advance)
            read = read_piece(self._blob, piece, buffer, placement.place, watch)
            self._found[piece.start] = _Passed(list(read), placement.take_cast())

    def _gather_all(self) -> dict[str, int]:
        """Write what has to be gathered; returns the checksums."""
        found: dict[str, int] = {}

        def work(gatherings: Iterator[Gathering]) -> None:
            from preheat.transfer.gather import gather  # numpy is imported when a tensor needs it

            for each in gatherings:
                for offset, run in gather(self._blob, each.tensor, self._cast_of(each)):
                    write(self._target, run, each.target + offset)
                found[each.name] = self._read_back(each)

        if self._plan.gatherings:
            work_off(self._plan.gatherings, min(self._pace.threads, GATHERERS), work, self._blob.close)
        return found

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


def _check_present(plan: Plan, blob: Blob) -> None:
    reaches = [(move.name, move.start, move.stop) for move in plan.moves]
    reaches += [(each.name, *reach_of(stored)) for each in plan.gatherings for stored in each.tensor.stored()]
    for name, start, stop in reaches:
        if stop > blob.size:
            raise TruncatedError(
                f"tensor {name!r} needs bytes {start}...{stop}; the file ends at {blob.size}",
                remedy="Copy or upload the checkpoint again",
            )
