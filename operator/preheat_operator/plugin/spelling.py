"""Dataclasses as JSON spells them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from preheat.construction import camel_case


def as_json(known: Any) -> dict[str, Any]:
    """A dataclass with its names in camelCase, without what is not known."""
    plain: dict[str, Any] = _spelled(asdict(known))
    return plain


def _spelled(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if each is not None and each not in ("", (), {})}
        return {camel_case(key): _spelled(each) for key, each in kept.items()}
    return [_spelled(each) for each in value] if isinstance(value, (list, tuple)) else value
