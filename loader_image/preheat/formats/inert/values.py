"""The values that a pickle describes, without life: nothing here can be called, imported or hashed at a cost.

A pickle can describe lists that hold themselves, or one another a thousand times over. `check_tree` refuses those
once, so that whatever walks the tree afterwards may do so plainly.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from preheat.errors import CheckpointLoadError

MAX_VALUES = 5_000_000
MAX_LEVELS = 100
MAX_NAME = 400  # characters of a class's name that are shown


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function, never the thing itself."""

    module: str
    name: str

    def __str__(self) -> str:
        text = f"{self.module}.{self.name}"
        text = text if len(text) <= MAX_NAME else f"{text[:MAX_NAME]}..."
        return text if text.isprintable() else ascii(text)[1:-1]


SET = Global("builtins", "set")
FROZENSET = Global("builtins", "frozenset")


@dataclass(slots=True, eq=False, repr=False)
class Node:
    """An object that the pickle would have made by calling `callee`; compared by identity.

    `refusal` is set where the object is known and is not among what Preheat reads; it completes "tensor x is ...".
    """

    callee: Any  # Global or Node
    args: Any = ()
    keywords: Any = None
    state: Any = None  # what BUILD would have set
    items: list[Any] | tuple[()] = ()  # appended or added
    pairs: list[tuple[Any, Any]] | tuple[()] = ()  # set by key
    refusal: str = ""
    new: bool = False  # `callee` is a class and was not called, as objects are pickled that do not say how

    @property
    def name(self) -> str:
        """The dotted name of the class or function behind it all."""
        callee = self.callee
        for _ in range(MAX_LEVELS):
            if not isinstance(callee, Node):
                return str(callee)
            callee = callee.callee
        return "a call of calls"

    def append(self, items: Iterable[Any]) -> None:
        """Add to `items`; most nodes have none, and no list for them."""
        self.items = self.items or []
        self.items.extend(items)

    def set(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Add to `pairs`."""
        self.pairs = self.pairs or []
        self.pairs.extend(pairs)

    def __repr__(self) -> str:
        return f"<{self.name}>"


def members(node: Node) -> list[Any]:
    """What a pickled set holds, in the order of the file."""
    given = node.args[0] if node.args and isinstance(node.args[0], list) else []
    return list(node.items) or given


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Key:
    """A dictionary key that is no plain value; hashing nested tuples can take for ever, so it is never done."""

    value: Any


_PLAIN_KEYS = frozenset((str, float, bool, bytes, type(None), Global, Node))


def as_key(value: Any) -> Any:
    """The value as a dictionary key whose hash takes no time and collides by chance only."""
    plain = abs(value) < 1 << 63 if type(value) is int else type(value) in _PLAIN_KEYS
    return value if plain else Key(value)


def check_tree(root: Any) -> None:
    """Raise CheckpointLoadError unless the dictionaries, lists and tuples from `root` are a tree of bearable size.

    What opaque nodes hold does not count: nobody walks into them.
    """
    weights: dict[int, tuple[int, int]] = {}  # by container: values below it with repetitions, and levels
    above: set[int] = set()
    pending = [(root, False)]
    while pending:
        value, done = pending.pop()
        inside = _inside(value)
        if inside is None or (id(value) in weights and not done):
            continue
        if done:
            above.discard(id(value))
            weights[id(value)] = _weigh([weights.get(id(child), (1, 0)) for child in inside])
        elif id(value) in above:
            raise CheckpointLoadError(f"the pickle describes a {type(value).__name__} that contains itself")
        else:
            above.add(id(value))
            pending.append((value, True))
            pending.extend((child, False) for child in inside)


def _weigh(children: list[tuple[int, int]]) -> tuple[int, int]:
    values = 1 + sum(values for values, _ in children)
    levels = 1 + max((levels for _, levels in children), default=0)
    if values > MAX_VALUES or levels > MAX_LEVELS:
        raise CheckpointLoadError(
            f"the pickle describes more than {MAX_VALUES} values or {MAX_LEVELS} levels, as bombs do"
        )
    return values, levels


def _inside(value: Any) -> Collection[Any] | None:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple)) else None
