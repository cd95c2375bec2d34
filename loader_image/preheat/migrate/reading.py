"""Reads a legacy configuration with the files that it includes, and with what is given on the command line.

What cannot be found or resolved is said and left as it is. Errors quote no line of a file: it may hold a credential.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preheat.errors import CheckpointConfigError
from preheat.migrate.defaults import composed
from preheat.migrate.files import load, value_of
from preheat.migrate.inheritance import inherited
from preheat.migrate.interpolation import resolved
from preheat.migrate.traced import Remark


@dataclass(frozen=True)
class Configuration:
    """The whole document, and what of it is not there."""

    document: dict[str, Any]
    missing: tuple[Remark, ...] = ()
    unresolved: frozenset[str] = frozenset()
    """Keys whose interpolation is left as it is."""


def read(path: Path, overrides: Iterable[str] = ()) -> Configuration:
    """The configuration in a file; raises CheckpointConfigError that names it."""
    settings = [_override(text) for text in overrides]
    document = load(path)
    if isinstance(document.get("defaults"), list):
        document, missing = composed(path, document, dict(settings))
    else:
        document, missing = inherited(path, document)
    for name, value in settings:
        _put(document, name, value)
    document, unresolved = resolved(document)
    return Configuration(document, tuple(missing), unresolved)


def _override(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` as Hydra writes it; what adds or deletes a key is meant alike."""
    name, equals, given = text.partition("=")
    deleted = name.startswith("~")
    if not equals and not deleted:
        raise CheckpointConfigError(
            f"{text!r:.80} is no setting", remedy="Write KEY=VALUE, such as training.run_id=abc"
        )
    return name.lstrip("+~"), None if deleted else value_of(given)


def _put(document: dict[str, Any], name: str, value: Any) -> None:
    *parents, last = re.findall(r"[^.\[\]]+", name)
    inner: Any = document
    for parent in parents:
        inner = inner[int(parent)] if isinstance(inner, list) else inner.setdefault(parent, {})
        if not isinstance(inner, (dict, list)):
            raise CheckpointConfigError(f"{name} cannot be set: {parent} is no mapping")
    inner[int(last) if isinstance(inner, list) else last] = value
