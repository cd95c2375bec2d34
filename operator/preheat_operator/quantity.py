"""Amounts of CPU and memory as Kubernetes writes them: `100m`, `64Mi`, `0.5`, `1e3`. Exact, never floats."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

#: The spellings that the resource accepts; exponents are left to the API server's own resources.
QUANTITY_PATTERN = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(n|u|m|k|[MGTPE]|[KMGTPE]i)?$"

_SUFFIXED = re.compile(r"^([+-]?[0-9.]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?$")
_FACTORS = {
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("n", "u", "m", "", "k", *"MGTPE"), start=-3)},
    **{f"{prefix}i": Decimal(1024) ** power for power, prefix in enumerate("KMGTPE", start=1)},
}


def parse_quantity(text: str | int | float) -> Decimal:
    """The amount in units (processors, bytes); raises ValueError for what is no quantity."""
    found = _SUFFIXED.match(str(text))
    if not found:
        raise ValueError(f"{text!r} is not a quantity such as 500m or 128Mi")
    number, suffix = found[1], found[2] or ""
    try:
        if suffix[:1] in ("e", "E") and len(suffix) > 1:
            return Decimal(number + suffix)
        return Decimal(number) * _FACTORS[suffix]
    except ArithmeticError as error:
        raise ValueError(f"{text!r} is not a quantity such as 500m or 128Mi") from error


def checked_quantity(text: str | int) -> str | int:
    """The quantity as it was written; raises ValueError unless the resource accepts the spelling."""
    if not re.fullmatch(QUANTITY_PATTERN, str(text)):
        raise ValueError(f"{text!r} is not a quantity such as 500m or 128Mi")
    return text


def render_quantity(amount: Decimal) -> str:
    """An exact spelling that people can read, rounded up at a billionth as Kubernetes does."""
    mebibytes, rest = divmod(amount, _FACTORS["Mi"])
    if mebibytes and not rest:  # no machine has so many processors
        return f"{int(mebibytes)}Mi"
    for suffix in ("", "m", "u"):
        scaled = amount / _FACTORS[suffix]
        if scaled == scaled.to_integral_value():
            return f"{int(scaled)}{suffix}"
    return f"{int((amount / _FACTORS['n']).to_integral_value(ROUND_CEILING))}n"


def human_bytes(count: int) -> str:
    """A size for a sentence: 567.3 MiB."""
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
