"""A legacy configuration read by dotted paths, with the credentials in it withheld before anybody can quote them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from preheat.migrate.traced import Traced

#: What a configuration writes for "nothing": YAML's null, yacs' `None`, Hydra's `???`.
_NOTHING = (None, "", "None", "null", "???")
_CREDENTIAL = re.compile(
    r"(?:^|_)(?:app_?key(?:_?id)?|access_?key(?:_?id)?|api_?key|secret(?:_?key)?|token|passw(?:or)?d|credentials?)$",
    re.IGNORECASE,
)
_USER_INFORMATION = re.compile(r"(?<=://)[^/@\s]+@")
_SIGNED_QUERY = re.compile(r"\?[^\s]*(?:sig|token|key|credential|password)[^\s]*", re.IGNORECASE)


class Withheld(str):
    """In the place of a credential: that there was one is all that is known."""

    __slots__ = ()

    def __new__(cls) -> Withheld:
        return super().__new__(cls, "***")


@dataclass(frozen=True)
class Key:
    """A row of a system's table: a key, and what becomes of it.

    In the path `[]` is each item of a list, `*` any one name, and what is in parentheses may be left out; what is below
    the path belongs to it. A key with
    `advice` has no place in a resource: the advice says why, and what to do. All others are the system's rules' work.
    """

    path: str
    becomes: str
    advice: str = ""

    def covers(self, leaf: str) -> bool:
        """Whether a key of a configuration, such as `a.list[2].name`, is this one or below it."""
        return bool(_pattern(self.path).match(leaf))


@cache
def _pattern(path: str) -> re.Pattern[str]:
    exact = re.escape(path).replace(r"\[\]", r"\[\d+\]").replace(r"\*", r"[^.\[]+")
    exact = exact.replace(r"\(", "(?:").replace(r"\)", ")?")
    return re.compile(rf"{exact}(?:[.\[]|$)", re.IGNORECASE)


class Settings:
    """The configuration. What is asked for and holds nothing is None."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = withheld(document)
        before, after = dict(_leaves("", _named(document))), dict(self.leaves())
        #: Keys of which a credential, or a part that is one, was taken out.
        self.withheld = frozenset(leaf for leaf, value in after.items() if str(value) != str(before.get(leaf)))

    def __getitem__(self, path: str) -> Traced | None:
        value: Any = self._document
        for name in re.findall(r"[^.\[\]]+", path):
            value = _within(value, name)
        return None if _is_nothing(value) else Traced(value, (path,))

    def first(self, *paths: str) -> Traced | None:
        """The first of several keys that says something: names that a setting has had over the years."""
        return next((found for path in paths if (found := self[path])), None)

    def on(self, *paths: str) -> Traced | None:
        """A switch that is there and on."""
        return next((found for path in paths if (found := self[path]) and found.value is True), None)

    def items(self, path: str) -> list[str]:
        """The paths of the items of a list of mappings."""
        found = self[path]
        listed = found.value if found and isinstance(found.value, list) else []
        return [f"{path}[{position}]" for position in range(len(listed))]

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Every key with a value that is no mapping, and no list of mappings; empty ones too."""
        return _leaves("", self._document)


def withheld(tree: Any, name: str = "") -> Any:
    """The tree with credentials taken out: by the names of their keys, and out of URLs."""
    if isinstance(tree, Mapping):
        return {str(key): withheld(value, str(key)) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [withheld(item, name) for item in tree]
    if not isinstance(tree, str) or isinstance(tree, Withheld) or _is_nothing(tree):
        return tree
    return Withheld() if _CREDENTIAL.search(name) else without_credentials(tree)


def without_credentials(text: str) -> str:
    """A URL without its user and a signature in its query; any other text as it is."""
    return _SIGNED_QUERY.sub("", _USER_INFORMATION.sub("", text)) if "://" in text else text


def _named(tree: Any) -> Any:
    """The tree with texts as names of its keys."""
    if isinstance(tree, Mapping):
        return {str(key): _named(value) for key, value in tree.items()}
    return [_named(item) for item in tree] if isinstance(tree, (list, tuple)) else tree


def _is_nothing(value: Any) -> bool:
    return value in _NOTHING or (isinstance(value, (list, dict)) and not any(each != "" for each in value))


def _within(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(name)
    if isinstance(value, list) and name.isdigit():
        return value[int(name)] if int(name) < len(value) else None
    return None


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from _leaves(f"{path}.{name}" if path else name, each)
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for position, item in enumerate(value):
            yield from _leaves(f"{path}[{position}]", item)
    else:
        yield path, value
