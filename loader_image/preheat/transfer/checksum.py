"""CRC-32, the checksum of zip records: of bytes, and of two neighbours from their own checksums."""

from __future__ import annotations

__all__ = ["combine", "crc32"]

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


try:
    from isal.isal_zlib import crc32  # several times as fast as zlib's
    from isal.isal_zlib import crc32_combine as combine
except ImportError:
    from zlib import crc32

    combine = _combine
