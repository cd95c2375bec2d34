"""Values that anybody may have written: what leaves here is short, printable and of a type the API server takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

Object = Mapping[str, Any]

_TEXT_LIMIT = 1024
_CENTURY = 3.2e9  # seconds
_IDENTIFIER = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")


def printable(text: object, limit: int = _TEXT_LIMIT) -> str:
    """One line of text that any JSON writer accepts, cut at `limit` characters."""
    line = " ".join(str(text).encode("utf-8", "replace").decode("utf-8").split())
    if not line.isprintable():
        line = "".join(c for c in line if c.isprintable())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def mapping(parent: Object, key: str) -> Object:
    """The object at a key; empty when there is none."""
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}


def mappings(entries: object) -> list[Object]:
    """The objects of a list; none when it is no list."""
    return [each for each in entries if isinstance(each, Mapping)] if isinstance(entries, list) else []


def is_count(value: object) -> TypeGuard[int]:
    """Whether the API server takes it for an integer, and it counts something."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def duration(value: object) -> float | None:
    """A number of seconds that a pod may have lived, or nothing."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value < _CENTURY else None


def identifier(value: object) -> str:
    """A reason as Kubernetes' conditions want it, or nothing."""
    return value if isinstance(value, str) and _IDENTIFIER.fullmatch(value) else ""
