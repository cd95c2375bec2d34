"""What the 256 codes of each floating dtype of eight bits mean."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy

Array = Any  # of numpy

#: Bits of the exponent, its bias, and the codes that are no number. The rest are a sign and the mantissa.
_PARTS = {
    "F8_E4M3": (4, 7, (0x7F, 0xFF)),
    "F8_E4M3FNUZ": (4, 8, (0x80,)),  # in the place of a negative zero
    "F8_E5M2FNUZ": (5, 16, (0x80,)),
}


@cache
def float8_values(dtype: str) -> Array:
    """The value of each code, as float32."""
    codes = numpy.arange(256)
    if dtype == "F8_E5M2":  # the upper half of a float16
        return (codes.astype(numpy.uint16) << 8).view(numpy.float16).astype(numpy.float32)
    if dtype == "F8_E8M0":  # an exponent alone: scales of blocks
        return numpy.where(codes == 0xFF, numpy.nan, numpy.ldexp(1.0, codes - 127)).astype(numpy.float32)
    bits, bias, none = _PARTS[dtype]
    width = 7 - bits
    exponent, mantissa = codes >> width & (1 << bits) - 1, codes & (1 << width) - 1
    fraction = mantissa / (1 << width)
    size = numpy.where(exponent == 0, numpy.ldexp(fraction, 1 - bias), numpy.ldexp(1 + fraction, exponent - bias))
    size[list(none)] = numpy.nan
    return numpy.copysign(size, 127.5 - codes).astype(numpy.float32)
