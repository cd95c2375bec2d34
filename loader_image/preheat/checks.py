"""What must hold of a checkpoint's bytes; the `verify` stage sets it, whoever moves bytes obeys it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Checks:
    """Verified on the bytes as they pass."""

    sha256: str | None = None  # of the whole object, hexadecimal; makes the loader read all of it
    crc32: bool = True  # of every zip record that carries one
    finite: bool = False  # no NaN or infinity among the weights
