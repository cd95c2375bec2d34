"""Sizes and times as people and Kubernetes write them: `200Gi`, `5GB`, `7d`."""

from __future__ import annotations

import re

from preheat.errors import CheckpointConfigError

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(?:([kKMGTPE])(i)?)?B?")
_TIME = re.compile(r"(\d+(?:\.\d+)?) ?([smhdw]?)")
_RATE = re.compile(r"(\d+(?:\.\d+)?) ?([kmg]i?)?(b|bit|bps)?(?:/s)?")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def bytes_of(text: str) -> int:
    """`200Gi`, `200GiB`, `5GB`, `1.5T` or a plain number as bytes; raises CheckpointConfigError for anything else."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise CheckpointConfigError(f"{text!r:.40} is not a size", remedy="Write it like 200Gi, 5GB or 1000000")
    power = "KMGTPE".index(found[2].upper()) + 1 if found[2] else 0
    number = float(found[1]) if "." in found[1] else int(found[1])
    return int(number * (1024 if found[3] else 1000) ** power)


def seconds_of(text: str) -> float:
    """`7d`, `12h`, `30m`, `90s` or a plain number as seconds; raises CheckpointConfigError for anything else."""
    found = _TIME.fullmatch(text.strip())
    if not found:
        raise CheckpointConfigError(f"{text!r:.40} is not a time", remedy="Write it like 7d, 12h or 3600")
    return float(found[1]) * _SECONDS[found[2]]


def bytes_per_second(text: str) -> float:
    """`100MB/s`, `2GiB/s` or `10Gbit/s` as bytes per second; raises CheckpointConfigError for anything else."""
    found = _RATE.fullmatch(text.strip().lower())
    if not found or float(found[1]) == 0:
        raise CheckpointConfigError(f"{text!r} is not a bandwidth", remedy="Write it like 100MB/s or 10Gbit/s")
    return float(found[1]) * _UNITS[found[2] or ""] / (8 if found[3] in ("bit", "bps") else 1)


def ago(seconds: float) -> str:
    """How long something is past, to one unit: `3 d`."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def size_text(count: float) -> str:
    """`48 B`, `12.7 kB`, `220.5 MB`, `2.62 GB`: in decimal units, as disks and networks are sold."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit, factor in (("kB", 1e3), ("MB", 1e6)):
        if count < 999.95 * factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e9:,.2f} GB"


def parameters_text(count: int) -> str:
    """`3,510 parameters`, `55.1 M parameters`."""
    return f"{count / 1e6:,.1f} M parameters" if count >= 1_000_000 else count_of(count, "parameter")


def count_of(number: int, thing: str) -> str:
    """`1 tensor`, `2 tensors`."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
