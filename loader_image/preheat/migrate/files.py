"""One YAML file of a legacy configuration. Errors quote no line of it: it may hold a credential."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from preheat.errors import CheckpointConfigError


class _Loader(yaml.SafeLoader):
    """Tuples, which older configurations of linnaeus hold, are lists."""


def _tuple(loader: _Loader, node: yaml.Node) -> list[Any]:
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else []


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)


def value_of(text: str) -> Any:
    """What a text means as YAML; a text that is none means itself."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - it is a SafeLoader
    except yaml.YAMLError:
        return text


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
