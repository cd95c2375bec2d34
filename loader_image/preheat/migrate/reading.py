"""Reads a legacy configuration with the files that it includes, and with what is given on the command line.

What cannot be found or resolved is said and left as it is. Errors quote no line of a file: it may hold a credential.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from preheat.errors import CheckpointConfigError
from preheat.migrate.traced import Remark

_INTERPOLATION = re.compile(r"\$\{")


@dataclass(frozen=True)
class Configuration:
    """The whole document, and what of it is not there."""

    document: dict[str, Any]
    missing: tuple[Remark, ...] = ()
    unresolved: frozenset[str] = frozenset()
    """Keys whose interpolation is left as it is."""


class _Loader(yaml.SafeLoader):
    """Tuples, which older configurations of linnaeus hold, are lists."""


def _tuple(loader: _Loader, node: yaml.Node) -> list[Any]:
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else []


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)


def read(path: Path, overrides: Iterable[str] = ()) -> Configuration:
    """The configuration in a file; raises CheckpointConfigError that names it."""
    from preheat.migrate.defaults import composed
    from preheat.migrate.inheritance import inherited

    settings = [_override(text) for text in overrides]
    document = load(path)
    if isinstance(document.get("defaults"), list):
        document, missing = composed(path, document, dict(settings))
    else:
        document, missing = inherited(path, document)
    for name, value in settings:
        _put(document, name, value)
    document, unresolved = _resolved(document)
    return Configuration(document, tuple(missing), unresolved)


def load(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises CheckpointConfigError that names it."""
    document = load_any(path)
    if not isinstance(document, dict):
        raise CheckpointConfigError(
            f"{path} holds no mapping", remedy="Give the file that the training is started with"
        )
    return document


def load_any(path: Path) -> Any:
    """Whatever is in a YAML file, nothing as an empty mapping."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - it is a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise CheckpointConfigError(f"{path} cannot be read: {reason}") from None
    except yaml.YAMLError as error:
        raise CheckpointConfigError(f"{path} is not valid YAML{_where(error)}") from None
    return {} if found is None else found


def merged(lower: Any, higher: Any) -> Any:
    """Mappings merged key by key; of all else the higher."""
    if not (isinstance(lower, Mapping) and isinstance(higher, Mapping)):
        return higher
    return {**lower, **{name: merged(lower.get(name), value) for name, value in higher.items()}}


def _where(error: yaml.YAMLError) -> str:
    """Line and reason, without the snippet."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return (f", line {mark.line + 1}" if mark else "") + (f": {problem}" if problem and '"' not in problem else "")


def _override(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` as Hydra writes it; what adds or deletes a key is meant alike."""
    name, equals, value = text.partition("=")
    if not equals and not name.startswith("~"):
        raise CheckpointConfigError(
            f"{text!r:.80} is no setting", remedy="Write KEY=VALUE, such as training.run_id=abc"
        )
    try:
        return name.lstrip("+~"), None if name.startswith("~") else yaml.load(value, _Loader)  # noqa: S506 - as above
    except yaml.YAMLError:
        return name.lstrip("+~"), value


def _put(document: dict[str, Any], name: str, value: Any) -> None:
    *parents, last = re.findall(r"[^.\[\]]+", name)
    inner: Any = document
    for parent in parents:
        inner = inner[int(parent)] if isinstance(inner, list) else inner.setdefault(parent, {})
        if not isinstance(inner, (dict, list)):
            raise CheckpointConfigError(f"{name} cannot be set: {parent} is no mapping")
    inner[int(last) if isinstance(inner, list) else last] = value


def _resolved(document: dict[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """The document with interpolations resolved, as far as OmegaConf can and is there."""
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
