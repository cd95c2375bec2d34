"""What is known of a piece that has passed: enough to go on without it, and to tell whether it is still there."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from preheat import __version__
from preheat.blob import Blob
from preheat.checks import Checks
from preheat.index import ITEMSIZE
from preheat.plan import Plan
from preheat.transfer.pieces import Piece


@dataclass(frozen=True, slots=True)
class Passed:
    """The checksums of one piece: of its stretches as read, of what was cast as written, and digests."""

    stretches: array[int]
    cast: array[int]  # for each move: its target, checksum and bytes
    digests: dict[str, str]  # of all the piece's bytes, by algorithm, in hexadecimal

    def casts(self) -> Iterator[tuple[int, int, int]]:
        """Target, checksum and bytes of what was cast, by move."""
        values = iter(self.cast)
        return zip(values, values, values, strict=True)

    def to_json(self) -> list[Any]:
        """For a journal, which knows the piece."""
        return [self.stretches.tolist(), self.cast.tolist(), self.digests]

    @classmethod
    def from_json(cls, document: list[Any]) -> Passed:
        """What `to_json` made of it."""
        checksums, cast, digests = document
        return cls(array("I", checksums), array("q", cast), digests)

    def written(self, piece: Piece) -> Iterator[tuple[int, int, int]]:
        """What is in the output of it, given the piece again: first byte, length and checksum."""
        cast = {target: (checksum, length) for target, checksum, length in self.casts()}
        for stretch, checksum in zip(piece.stretches, self.stretches, strict=True):
            for move in stretch.moves:
                if move.target is None:
                    continue
                at = stretch.start - move.tensor.start
                if not move.tensor.cast:
                    yield move.target + at, stretch.stop - stretch.start, checksum
                elif found := cast.pop(move.target, None):
                    begin = move.target + at // ITEMSIZE[move.tensor.dtype] * ITEMSIZE[move.tensor.final_dtype]
                    yield begin, found[1], found[0]


def identity(plan: Plan, blob: Blob, checks: Checks) -> str:
    """A digest of what a transfer does, byte for byte: what one of another has written is of no use."""
    digest = hashlib.sha256(f"{__version__}\n{blob.uri}\n{blob.version}\n{blob.size}\n{checks}\n".encode())
    for piece in plan.header.pieces():
        digest.update(piece)
    for move in plan.moves:
        tensor, record = move.tensor, move.tensor.record
        facts = move.start, move.stop, move.target, tensor.start, tensor.size, tensor.dtype, tensor.cast
        digest.update(repr((*facts, record.start, record.stop, record.crc32)).encode())
    for each in plan.gatherings:
        digest.update(repr((each.target, each.tensor)).encode())
    return digest.hexdigest()
