"""Builds a component from a class and its parameters, and says what is wrong with either."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from keyword import iskeyword
from typing import Any

from preheat.errors import CheckpointConfigError


def construct(component: Any, parameters: Mapping[str, Any], where: str) -> Any:
    """`component(**parameters)`; raises CheckpointConfigError that names `where` and the parameter."""
    if is_dataclass(component):
        _refuse_unknown(parameters, [f.name for f in fields(component)], where)
    try:
        return component(**parameters)
    except (TypeError, CheckpointConfigError) as error:
        raise CheckpointConfigError(f"{where}: {error}") from error


def snake_case(name: str) -> str:
    """`weightsOnly` -> `weights_only`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def camel_case(name: str) -> str:
    """`weights_only` -> `weightsOnly`, `from_` -> `from`."""
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


def plain(value: Any) -> Any:
    """Mappings and lists of any configuration library as dicts and lists, references in them resolved."""
    if isinstance(value, Mapping):
        return {name: plain(value[name]) for name in value}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, tuple)):
        return [plain(item) for item in value]
    return value


def part(component: Any, value: Any, where: str) -> Any:
    """A parameter that is an object of its own: as it is, or built from a mapping in either spelling."""
    if not isinstance(value, Mapping):
        return value
    parameters = {snake_case(name): each for name, each in value.items()}
    # What Python keeps for itself, such as `from`, is spelled `from_` there.
    return construct(
        component, {f"{name}_" if iskeyword(name) else name: each for name, each in parameters.items()}, where
    )


def suggest(name: str, known: list[str]) -> str:
    """The tail of a sentence about an unknown name: the nearest, and all that are known."""
    nearest = get_close_matches(name, known, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{hint} Known: {', '.join(known)}" if hint else f"; known: {', '.join(known)}"


def _refuse_unknown(parameters: Iterable[str], known: list[str], where: str) -> None:
    for name in parameters:
        if name not in known:
            raise CheckpointConfigError(f"{where}: unknown parameter {name!r}{suggest(name, known)}")
