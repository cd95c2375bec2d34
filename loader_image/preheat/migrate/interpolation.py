"""Interpolations of a configuration, `${...}`, resolved as far as OmegaConf can and is there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_INTERPOLATION = re.compile(r"\$\{")


def resolved(document: dict[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """The document, and the keys whose interpolation is left as it is."""
    if not any(_INTERPOLATION.search(text) for text in _texts(document)):
        return document, frozenset()
    unresolved: set[str] = set()
    try:
        from omegaconf import OmegaConf
    except ImportError:
        return document, frozenset(key for key, text in _keyed(document) if _INTERPOLATION.search(text))
    return _values(OmegaConf.create(document), "", unresolved), frozenset(unresolved)


def _values(node: Any, path: str, unresolved: set[str]) -> Any:
    from omegaconf import DictConfig, ListConfig

    if isinstance(node, DictConfig):
        return {str(key): _value(node, key, f"{path}.{key!s}".lstrip("."), unresolved) for key in node}
    if isinstance(node, ListConfig):
        return [_value(node, position, f"{path}[{position}]", unresolved) for position in range(len(node))]
    return node


def _value(node: Any, key: Any, path: str, unresolved: set[str]) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if OmegaConf.is_missing(node, key):
        return None
    try:
        return _values(node[key], path, unresolved)
    except (OmegaConfBaseException, RecursionError):
        unresolved.add(path)
        as_written: Any = OmegaConf.to_container(node)
        return as_written[key]


def _texts(tree: Any) -> Iterator[str]:
    return (text for _, text in _keyed(tree))


def _keyed(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _keyed(value, f"{path}.{name}" if path else str(name))
    elif isinstance(tree, list):
        for position, item in enumerate(tree):
            yield from _keyed(item, f"{path}[{position}]")
    elif isinstance(tree, str):
        yield path, tree
