"""CRC-32, the checksum of zip records, and CRC-64/NVME, that of objects in S3: of bytes, and of two neighbours from
their own checksums."""

from __future__ import annotations

from functools import cache
from typing import Any

from preheat.errors import CheckpointConfigError

__all__ = ["Crc64", "combine", "crc32"]

_POLYNOMIAL = 0xEDB88320


def _combine(first: int, second: int, second_length: int) -> int:
    """The checksum of two stretches of bytes in a row; zlib has this function and Python does not show it."""
    # Appending a zero bit is a linear map of the checksum's 32 bits. Squaring it doubles the number of zeros.
    zeros = [_POLYNOMIAL, *(1 << bit for bit in range(31))]
    bits = second_length * 8
    while bits:
        if bits & 1:
            first = _apply(zeros, first)
        zeros = [_apply(zeros, column) for column in zeros]
        bits >>= 1
    return first ^ second


def _apply(matrix: list[int], vector: int) -> int:
    result = 0
    for column in matrix:
        if vector & 1:
            result ^= column
        vector >>= 1
    return result


class Crc64:
    """CRC-64/NVME of bytes as they come, behind those that gave `value`.

    Raises CheckpointConfigError without the library that makes it fast.
    """

    def __init__(self, value: int = 0) -> None:
        self._model = _crc64nvme()
        self._value = value

    def update(self, data: memoryview) -> None:
        """Go on with the next bytes."""
        self._value = self._model.calc(data, self._value)

    def append(self, other: Crc64, length: int) -> None:
        """Go on with `length` bytes that `other` has seen."""
        self._value = self._model.combine(self._value, other._value, length)

    def hexdigest(self) -> str:
        """The value in hexadecimal."""
        return f"{self._value:016x}"


@cache
def _crc64nvme() -> Any:
    try:
        from anycrc import Model  # type: ignore[import-untyped]
    except ImportError:
        raise CheckpointConfigError(
            "crc64nvme needs the package anycrc, which is not installed", remedy="Install preheat[loader]"
        ) from None
    return Model("CRC64-NVME")


try:
    from isal.isal_zlib import crc32  # several times as fast as zlib's
    from isal.isal_zlib import crc32_combine as combine
except ImportError:
    from zlib import crc32

    combine = _combine
