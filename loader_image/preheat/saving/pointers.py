"""Pointers: small files that name a checkpoint beside them, `latest` and `best` for example; replaced all at once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preheat.bundle.storage import sync

_LONGEST = 64 << 10  # bytes


def write_pointer(path: Path, document: Mapping[str, Any]) -> None:
    """Put a pointer into its place, or another into it; raises OSError."""
    scratch = path.with_name(f".{path.name}.partial-{os.urandom(4).hex()}")
    try:
        with open(scratch, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    sync(path.parent)


def read_pointer(path: Path) -> dict[str, Any]:
    """What a pointer says; nothing where there is none, or something else in its place."""
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(_LONGEST))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
