"""Checks a checkpoint where it is: every byte that a check needs is read once, and nothing is written.

All tensors are read, those of the training state too. Only weights have to be finite: what watches a training run may
well remember infinity as its best score so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from preheat.blob import Blob, Patience
from preheat.checks import Checks, Findings
from preheat.construction import construct
from preheat.formats import read_index
from preheat.index import Index, Tensor
from preheat.moves import Move, coalesce
from preheat.plan import reach_of
from preheat.progress import Progress, watched
from preheat.transfer.digests import Digests
from preheat.transfer.engine import MAX_GAP, SPAN
from preheat.transfer.pace import LOCAL, REMOTE, ramped
from preheat.transfer.pieces import Piece, Records, Stretch
from preheat.transfer.placement import finite_check
from preheat.transfer.reading import read_piece
from preheat.transfer.workers import work_off
from preheat.verbs.location import Where, located, opened
from preheat.verify import Verify

if TYPE_CHECKING:
    from preheat.transfer.finite import FiniteCheck


@dataclass(frozen=True)
class Verified:
    """What was checked of a checkpoint that passed."""

    uri: str
    version: str
    size_bytes: int
    format: str
    layout: str
    tensors: int  # weights and training state, an alias counted again
    records: int  # whose CRC-32 was compared
    checks: Checks  # what there was to check: a file without any CRC-32 has none compared
    warnings: tuple[str, ...]  # what checks that only warn have found
    fetched_bytes: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Everything, for a program."""
        return {
            "outcome": "verified",
            "source": {"uri": self.uri, "version": self.version, "sizeBytes": self.size_bytes},
            "format": self.format,
            "layout": self.layout,
            "tensors": self.tensors,
            "records": self.records,
            "checks": self.checks.to_json(),
            "warnings": list(self.warnings),
            "fetchedBytes": self.fetched_bytes,
            "seconds": round(self.seconds, 3),
        }


def verify_checkpoint(
    where: Where, *, patience: Patience | None = None, progress: Progress | None = None, **parameters: Any
) -> Verified:
    """Check sizes, CRC-32 of every tensor's record, finite weights and what else `parameters` of `verify` ask for.

    Raises the error that a pipeline with the same stage would.
    """
    began = time.monotonic()
    source, patience = located(where), patience or Patience()
    stage: Verify = construct(Verify, _lower_case(parameters), "verify")
    findings = Findings(stage.warn_only)
    with opened(source, patience) as blob:
        checks = stage.pinned(blob, source, patience, findings)
        index = read_index(blob)
        stage.compare(index, findings)
        checking = _Checking(blob, index, checks, findings)
        with watched(progress, checking.total) as advance:
            records = checking.run(advance)
        return Verified(
            uri=blob.uri,
            version=blob.version,
            size_bytes=blob.size,
            format=index.format,
            layout=index.layout,
            tensors=len(checking.moves),
            records=records,
            checks=replace(checks, crc32=records > 0),
            warnings=findings.warnings,
            fetched_bytes=blob.fetched,
            seconds=time.monotonic() - began,
        )


def _lower_case(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Some tools print digests in capitals."""
    hexadecimal = {name: parameters[name].lower() for name in ("sha256", "md5") if parameters.get(name)}
    return {**parameters, **hexadecimal}


class _Checking:
    def __init__(self, blob: Blob, index: Index, checks: Checks, findings: Findings) -> None:
        self._blob = blob
        self._checks = checks
        self._findings = findings
        self._digests = Digests(blob, checks)
        self._weights = index.tensors
        self.moves = list(_moves(index, checks))
        self._spans = coalesce(self.moves, max_gap=MAX_GAP, max_length=SPAN)
        self.total = blob.size if checks.whole else sum(span.stop - span.start for span in self._spans)
        self._found: dict[int, list[tuple[Stretch, int]]] = {}  # by first byte of a piece

    def run(self, advance: Callable[[int], None]) -> int:
        """Read and check; returns how many records were compared."""

        def work(pieces: Iterator[Piece]) -> None:
            buffer = memoryview(bytearray(pace.buffer_of(size())))
            see = partial(self._feed, finite_check(self._findings) if self._checks.finite else None)
            for piece in pieces:
                read = read_piece(self._blob, piece, buffer, see, self._digests.of(piece, passed))
                self._found[piece.start] = list(read)

        pace = REMOTE if self._blob.remote else LOCAL
        size, passed = ramped(pace, advance)
        work_off(self._digests.pieces(self._spans, pace.piece_of(self.total)), size, work, self._blob.close)
        self._digests.compare(self._findings)
        if self._checks.finite:
            self._look_at_strided()
        return self._compare_records()

    def _feed(self, finite: FiniteCheck | None, stretch: Stretch, part: memoryview, begin: int) -> None:
        for move in stretch.moves:
            if finite:
                finite.feed(move.name, move.tensor.dtype, part)

    def _look_at_strided(self) -> None:
        """Elements that the strides skip may be anything, so these are picked out of their storage first."""
        for name, tensor in self._weights.items():
            for stored in tensor.stored():
                if not stored.contiguous:
                    from preheat.transfer.gather import gather

                    finite = finite_check(self._findings)
                    for _, run in gather(self._blob, stored):
                        finite.feed(name, stored.dtype, run)

    def _compare_records(self) -> int:
        records = Records(lambda: {move.tensor.record: move.name for move in reversed(self.moves)}, self._findings)
        for start in sorted(self._found):
            for stretch, checksum in self._found[start]:
                records.add(stretch, checksum)
        return records.finish()


def _moves(index: Index, checks: Checks) -> Iterator[Move]:
    """Weights first: where records are shared, their names are the ones to be told. Only they have to be finite."""
    for tensors, looked_at in ((index.tensors.items(), True), (_state_tensors(index.state), False)):
        for name, tensor in tensors:
            for stored in tensor.stored():
                record = stored.record
                reach = (record.start, record.stop) if record.crc32 is not None else reach_of(stored)
                if stored.size:
                    yield Move(name, stored, 0 if looked_at and stored.contiguous else None, *reach)


def _state_tensors(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors of the training state with the keys that lead to them."""
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _state_tensors(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, (list, tuple)):
        for position, value in enumerate(tree):
            yield from _state_tensors(value, f"{path}[{position}]")
