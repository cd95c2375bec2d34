"""Whether a value that was built of JSON has the types that its dataclass declares: JSON holds whatever was written.

Knows what manifests are made of: dataclasses, mappings by text, tuples of one type, unions and plain values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

Test = Callable[[Any], bool]


def first_wrong(value: object) -> str | None:
    """The name of a dataclass's first field that holds something else than it declares."""
    kind: Any = type(value)  # mypy thinks that types have no hash
    return next((name for name, fits in _fields(kind) if not fits(getattr(value, name))), None)


@cache
def _fields(kind: type) -> tuple[tuple[str, Test], ...]:
    return tuple((name, _test(hint)) for name, hint in get_type_hints(kind).items())


def _test(hint: Any) -> Test:
    origin, inside = get_origin(hint), [_test(inner) for inner in get_args(hint) if inner is not ...]
    if hint is Any:
        return lambda value: True
    if origin in (Union, UnionType):
        return lambda value: any(test(value) for test in inside)
    if origin is tuple:
        return lambda value: isinstance(value, tuple) and all(map(inside[0], value))
    if origin is Mapping:
        return lambda value: (
            isinstance(value, dict) and all(map(inside[0], value)) and all(map(inside[1], value.values()))
        )
    if is_dataclass(hint):
        return lambda value: type(value) is hint and first_wrong(value) is None
    kinds = (int, float) if hint is float else (hint,)
    return lambda value: type(value) in kinds  # not isinstance: True is no number
