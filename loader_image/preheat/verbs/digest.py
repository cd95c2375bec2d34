"""The checksum of a whole object, as tools such as sha256sum print it."""

from __future__ import annotations

import hashlib
from typing import Protocol

from preheat.blob import Patience
from preheat.errors import CheckpointConfigError
from preheat.progress import Progress, watched
from preheat.transfer.checksum import Crc64, crc32
from preheat.verbs.location import Where, opened

ALGORITHMS = ("sha256", "sha512", "sha1", "md5", "blake2b", "sha3_256", "crc32", "crc64nvme")

_BUFFER = 1 << 20


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        self._value = crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def calculate_checksum(
    where: Where,
    algorithm: str = "sha256",
    *,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> str:
    """The checksum in hexadecimal of all bytes of a location or source, in 1 MiB of memory."""
    found = _hash(algorithm)
    with opened(where, patience) as blob, watched(progress, blob.size) as advance:
        for view in blob.stream(0, blob.size, memoryview(bytearray(_BUFFER))):
            found.update(view)
            advance(len(view))
    return found.hexdigest()


def _hash(algorithm: str) -> _Hash:
    if algorithm not in ALGORITHMS:
        raise CheckpointConfigError(f"unknown algorithm {algorithm!r}", remedy=f"Known: {', '.join(ALGORITHMS)}")
    if algorithm == "crc64nvme":
        return Crc64()
    return _Crc32() if algorithm == "crc32" else hashlib.new(algorithm, usedforsecurity=False)
