"""The non-tensor state of a checkpoint as JSON, for manifests: types are kept where JSON has them.

Elsewhere they are spelled out: `{"$tensor": {dtype, shape}}`, `{"$opaque": "module.Class"}`, `{"$bytes": base64}`,
`{"$complex": [re, im]}`, `{"$float": "nan"}`, `{"$set": [...]}`, `{"$items": [[key, value], ...]}` for keys that are no
text, and `{"$omitted": what}` beyond the limits. Tuples become lists.
"""

from __future__ import annotations

import base64
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from preheat.formats.inert.values import FROZENSET, MAX_LEVELS, SET, Global, Key, Node, members
from preheat.index import Tensor

MAX_VALUES = 10_000
MAX_TEXT = 4096  # characters, or bytes
CHARACTERS = 64  # of text that count as one value

Put = Callable[[Any], None]


@dataclass(frozen=True, eq=False)
class Opaque:
    """Stands where the checkpoint has an object of the class `name`; nothing else is known of it."""

    name: str

    def __repr__(self) -> str:
        return f"<{self.name}, not made>"


Inside = list[tuple[Any, Put]]


def to_json(tree: Any, *, max_values: int = MAX_VALUES) -> Any:
    """The tree with at most `max_values` values; what is near the root is kept, what does not fit is omitted."""
    result: list[Any] = []
    pending: deque[tuple[int, Any, Put]] = deque([(0, tree, result.append)])
    room = max_values
    while pending:
        level, value, put = pending.popleft()
        value = _plain(value)
        cost = _cost(value)
        if cost > room or level == MAX_LEVELS:
            put(_omitted(value))
            continue
        room -= cost
        spelled, inside = _spell(value)
        put(spelled)
        pending.extend((level + 1, child, into) for child, into in inside)
    return result[0]


def _plain(value: Any) -> Any:
    """Keys and sets, which have no spelling of their own in Python either, as what they hold."""
    if isinstance(value, Key):
        return value.value
    if isinstance(value, Node) and value.callee in (SET, FROZENSET):
        return _Set(members(value))
    return value


def _cost(value: Any) -> int:
    """How many values it counts for: those right inside, and one for every so many characters."""
    if isinstance(value, dict):
        return len(value) + sum(len(key) for key in value if isinstance(key, (str, bytes))) // CHARACTERS
    if isinstance(value, (list, tuple)):
        return len(value)
    if isinstance(value, (str, bytes)):
        return min(len(value), MAX_TEXT) // CHARACTERS
    if isinstance(value, int):
        return value.bit_length() // (3 * CHARACTERS)
    return len(opaque_name(value)) // CHARACTERS if isinstance(value, (Node, Global)) else 0


def _omitted(value: Any) -> dict[str, str]:
    if isinstance(value, (dict, list, tuple)) and value:
        return {"$omitted": f"{len(value)} values"}
    if isinstance(value, (str, bytes)):
        return {"$omitted": f"{len(value)} {'characters' if isinstance(value, str) else 'bytes'}"}
    return {"$omitted": "a deep value" if isinstance(value, (dict, list, tuple)) else "a long value"}


class _Set(list[Any]):
    """The members of a set, in the order of the file."""


def _spell(value: Any) -> tuple[Any, Inside]:
    """How a value is written, and the values inside it with where each goes."""
    if isinstance(value, dict):
        return _spell_dict(value)
    if isinstance(value, (list, tuple)):
        found = [None] * len(value)
        spelled = {"$set": found} if isinstance(value, _Set) else found
        return spelled, [(child, _into(found, position)) for position, child in enumerate(value)]
    return _spell_leaf(value), []


def _spell_dict(value: dict[Any, Any]) -> tuple[Any, Inside]:
    if all(isinstance(key, str) and not key.startswith("$") and len(key) <= MAX_TEXT for key in value):
        found: dict[str, Any] = dict.fromkeys(value)
        return found, [(child, _into(found, key)) for key, child in value.items()]
    pairs: list[list[Any]] = [[None, None] for _ in value]
    inside: Inside = []
    for pair, item in zip(pairs, value.items(), strict=True):
        inside += [(part, _into(pair, place)) for place, part in enumerate(item)]
    return {"$items": pairs}, inside


def _into(container: Any, place: Any) -> Callable[[Any], None]:
    def put(spelled: Any) -> None:
        container[place] = spelled

    return put


def _spell_leaf(value: Any) -> Any:
    if isinstance(value, (str, bytes)) and len(value) > MAX_TEXT:
        return _omitted(value)
    if isinstance(value, Tensor):
        return {"$tensor": {"dtype": value.dtype, "shape": list(value.shape)}}
    return spell_plain(value) if is_plain(value) else {"$opaque": opaque_name(value)}


def is_plain(value: Any) -> bool:
    """Whether `spell_plain` knows how to write it."""
    return value is None or isinstance(value, (bool, int, float, str, bytes, complex))


def spell_plain(value: Any) -> Any:
    """A value that holds no others, of whatever length."""
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, complex):
        return {"$complex": [spell_plain(value.real), spell_plain(value.imag)]}
    return value


def opaque_name(value: Any) -> str:
    """What an object that is not interpreted is called."""
    if isinstance(value, (Node, Opaque)):
        return value.name
    return str(value) if isinstance(value, Global) else f"a {type(value).__name__.lower()}"
