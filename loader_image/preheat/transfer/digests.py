"""Digests of whole files, taken while their bytes pass and compared with those that somebody declared.

SHA-256 and MD5 need a file's bytes in order, so one thread reads all of it. A CRC needs every byte too, but neighbours
combine: threads share the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from preheat.blob import Blob
from preheat.checks import Checks, Findings
from preheat.errors import CheckpointConfigError, CheckpointValidationError, UntrustedError
from preheat.joined_blob import files_of
from preheat.moves import Span
from preheat.transfer.checksum import Crc64
from preheat.transfer.pieces import Piece, covering, of_files, pieces_of

_SAID = {"sha256": "SHA-256", "md5": "MD5", "crc64nvme": "CRC-64/NVME"}
_COMBINES = "crc64nvme"


class _Digest(Protocol):
    def hexdigest(self) -> str: ...


class _Hash(_Digest, Protocol):
    def update(self, data: memoryview, /) -> None: ...


@dataclass(frozen=True)
class _Declared:
    """What somebody says of a file's bytes."""

    check: str  # the field of `verify` that it comes from
    algorithm: str
    digest: str


@dataclass(frozen=True)
class _File:
    """Bytes [start, stop) of the blob, and what is declared of them."""

    uri: str
    start: int
    stop: int
    declared: tuple[_Declared, ...]


class Digests:
    """The digests that `checks` declare of a blob's bytes. Fed by several threads, each with pieces of its own."""

    def __init__(self, blob: Blob, checks: Checks) -> None:
        self._files = _files(blob, checks)
        self._algorithms = sorted({each.algorithm for file in self._files for each in file.declared})
        self._taken: dict[tuple[int, int], Mapping[str, _Digest]] = {}  # by the bytes [start, stop) of a piece

    def pieces(self, spans: Sequence[Span], length: int) -> Iterator[Piece]:
        """What has to be read for `spans` and for the digests, in pieces of about `length` bytes where that is free."""
        if not self._algorithms:
            return pieces_of(spans, length)
        if self._algorithms == [_COMBINES]:
            return covering(spans, self._files[-1].stop, length)
        return of_files(spans, [0, *(file.stop for file in self._files)])

    def of(self, piece: Piece, advance: Callable[[int], None] = lambda count: None) -> Callable[[memoryview], None]:
        """What is to be shown every byte of `piece`, in order; it tells `advance` how many they were."""
        hashes: dict[str, _Hash] = {name: _new(name) for name in self._algorithms}
        self._taken[piece.start, piece.stop] = hashes

        def update(view: memoryview) -> None:
            for each in hashes.values():
                each.update(view)
            advance(len(view))

        return update

    def taken(self, piece: Piece) -> dict[str, str]:
        """The digests of a piece that has passed."""
        return {name: each.hexdigest() for name, each in self._taken[piece.start, piece.stop].items()}

    def recall(self, piece: Piece, digests: Mapping[str, str]) -> None:
        """Take what was `taken` of a piece for what its bytes would give."""
        self._taken[piece.start, piece.stop] = {name: _known(name, value) for name, value in digests.items()}

    def compare(self, findings: Findings) -> None:
        """Compare with what is declared, when every byte has passed; what differs is a finding."""
        for file in self._files:
            for declared in file.declared:
                found = self._found(file, declared.algorithm)
                if found != declared.digest:
                    findings.add(declared.check, _mismatch(file, declared, found))

    def _found(self, file: _File, algorithm: str) -> str:
        if algorithm != _COMBINES:
            return self._taken[file.start, file.stop][algorithm].hexdigest()
        crc = Crc64()
        for start, stop in sorted(self._taken):
            part = self._taken[start, stop][algorithm]
            assert isinstance(part, Crc64)  # noqa: S101 for mypy
            crc.append(part, stop - start)
        return crc.hexdigest()


def _files(blob: Blob, checks: Checks) -> list[_File]:
    """The files that the blob consists of; raises CheckpointConfigError for several where one digest is declared."""
    declared = tuple(_Declared(name, name, getattr(checks, name)) for name in _SAID if getattr(checks, name))
    members = files_of(blob)
    if len(members) > 1 and declared:
        raise CheckpointConfigError(
            f"{blob.uri} has {len(members)} files, and {' and '.join(each.check for each in declared)} would be of one",
            remedy=getattr(blob, "verified_by", ""),
        )
    signed = checks.signed or {}
    return [
        _File(
            member.blob.uri,
            member.start,
            member.start + member.blob.size,
            declared + tuple(_Declared("signature", "sha256", signed[name]) for name in {member.name} & signed.keys()),
        )
        for member in members
    ]


def _mismatch(file: _File, declared: _Declared, found: str) -> CheckpointValidationError:
    said = _SAID[declared.algorithm]
    if declared.check != "signature":
        return CheckpointValidationError(
            f"{file.uri} has {said} {found}, verify expects {declared.digest}",
            remedy=f"Correct {declared.check}, or upload the checkpoint that it was computed from",
        )
    return UntrustedError(
        f"{file.uri} has {said} {found}, signed is {declared.digest}",
        remedy="Upload what was signed, or sign the checkpoint again",
    )


@dataclass(frozen=True)
class _Known:
    value: str

    def hexdigest(self) -> str:
        return self.value


def _known(name: str, digest: str) -> _Digest:
    return Crc64(int(digest, 16)) if name == _COMBINES else _Known(digest)


def _new(name: str) -> _Hash:
    return Crc64() if name == _COMBINES else hashlib.new(name, usedforsecurity=False)
