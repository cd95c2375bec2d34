"""Label selectors as the API server evaluates them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a selector takes an object with these labels; an empty one takes all."""
    selector = selector or {}
    equal = (labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return all(equal) and all(_holds(each, labels) for each in selector.get("matchExpressions") or ())


def keys_of(selector: Mapping[str, Any] | None) -> set[str]:
    """The labels that a selector looks at."""
    selector = selector or {}
    return {*(selector.get("matchLabels") or {}), *(each["key"] for each in selector.get("matchExpressions") or ())}


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    return {
        "In": key in labels and labels[key] in values,
        "NotIn": labels.get(key) not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }[expression["operator"]]
