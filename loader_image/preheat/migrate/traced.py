"""Values that know which legacy keys they were made of, so that a document made of them can say it line by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Traced:
    """A value and the legacy keys that it comes from, the most telling first."""

    value: Any
    keys: tuple[str, ...]

    def made(self, value: Any, *others: Traced | None) -> Traced:
        """Another value that was made of this one, and of others where they are there."""
        more = (key for other in others if other for key in other.keys)
        return Traced(value, tuple(dict.fromkeys((*self.keys, *more))))

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class Remark:
    """What a person has to know about keys of the legacy configuration that are not, or not quite, in the resource."""

    keys: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{', '.join(self.keys)}: {self.text}"


def untraced(tree: Any) -> Any:
    """The tree without traces."""
    if isinstance(tree, Traced):
        return untraced(tree.value)
    if isinstance(tree, Mapping):
        return {name: untraced(value) for name, value in tree.items()}
    return [untraced(item) for item in tree] if isinstance(tree, (list, tuple)) else tree


def traces(tree: Any) -> Iterator[Traced]:
    """Every traced value in a tree, those within others too."""
    if isinstance(tree, Traced):
        yield tree
        yield from traces(tree.value)
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from traces(value)
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from traces(item)


def some(**parameters: Any) -> dict[str, Any]:
    """The parameters that are there: those that are not None."""
    return {name: value for name, value in parameters.items() if value is not None}
