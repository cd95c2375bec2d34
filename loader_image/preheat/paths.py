"""Dotted paths with globs, as `freezing`, `reset` and `cold_start` take them: what they name, and what was meant.

Paths are exact: `encoder` is not `model.encoder`. A path that names nothing is an error everywhere, because the
commonest bug of such lists is a name that never matched.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated

from preheat.errors import CheckpointConfigError
from preheat.limits import Limit

_ONE = Limit(min_length=1, max_length=512)

Paths = Annotated[tuple[str, ...], Limit(max_length=256, items=_ONE)]
SomePaths = Annotated[tuple[str, ...], Limit(min_length=1, max_length=256, items=_ONE)]


def listed(where: str, paths: Iterable[str]) -> tuple[str, ...]:
    """`paths` as a tuple; raises CheckpointConfigError for a single string, which would be taken letter by letter."""
    if isinstance(paths, str):
        raise CheckpointConfigError(f"{where}: give a list, such as [{paths}]")
    return tuple(paths)


def fits(name: str, path: str) -> bool:
    """Whether `path` names `name`: part by part, `*` within one part."""
    parts, patterns = name.split("."), path.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def holds(path: str, name: str) -> bool:
    """Whether `path` names `name` or something that `name` lies in."""
    return fits(".".join(name.split(".")[: path.count(".") + 1]), path)


def some(names: Iterable[str], shown: int = 3) -> str:
    """The first of `names` for a sentence, and how many there are besides."""
    names = tuple(names)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def meant(path: str, known: Iterable[str]) -> str:
    """` (did you mean ...?)` with the known names nearest to `path`, or nothing."""
    known = list(dict.fromkeys(known))
    below = [name for name in known if name.endswith(f".{path}")]
    nearest = below[:3] or get_close_matches(path, known, n=3)
    return f" (did you mean {' or '.join(map(repr, nearest))}?)" if nearest else ""
