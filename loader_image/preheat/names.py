"""Which tensors of a checkpoint are taken, and what they are called then: pure functions of names.

A pattern that matches nothing is refused, because it is nearly always a typo; so are two names that become one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, NothingMatchedError
from preheat.stage import Limit, check_limits

#: Characters of a name; a replacement that repeats its match would otherwise grow without end.
LONGEST = 4096


@dataclass(frozen=True)
class Rename:
    """Replace every match of a pattern in every name."""

    pattern: Annotated[str, Limit(min_length=1, max_length=256)]
    """Regular expression, found anywhere in a name unless it begins with `^`."""

    replacement: Annotated[str, Limit(max_length=256)]
    r"""What is put in the place of each match; `\1` is the pattern's first group."""

    def __post_init__(self) -> None:
        """Refuse what could not be applied."""
        check_limits(self)
        try:
            compiled("rename", self.pattern).sub(self.replacement, "")
        except (re.error, IndexError) as error:
            raise CheckpointConfigError(
                f"rename: {self.replacement!r} cannot replace {self.pattern!r}: {error}"
            ) from error


def compiled(where: str, pattern: str) -> re.Pattern[str]:
    """The regular expression; raises CheckpointConfigError for what is none."""
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise CheckpointConfigError(f"{where}: {pattern!r} is not a regular expression: {error}") from error


def taken(names: Iterable[str], select: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """The names in which a `select` pattern is found (all without one) and no `exclude` pattern, in their order."""
    names = list(names)
    chosen = _found("select", select, names) if select else set(names)
    dropped = _found("exclude", exclude, names)
    left = [name for name in names if name in chosen and name not in dropped]
    if names and not left:
        raise NothingMatchedError(
            f"convert: select and exclude leave none of the {len(names)} tensors, such as {_some(names)}",
            remedy="Exclude less",
        )
    return left


def renamed(names: Iterable[str], strip: Sequence[str], rename: Sequence[Rename], add: str) -> dict[str, str]:
    """New name -> name: each prefix is taken off once, in order, then the replacements, in order, then `add`."""
    names = list(names)
    changed = names
    for prefix in strip:
        changed = _changed("stripPrefix", prefix, changed, [name.removeprefix(prefix) for name in changed])
    for rule in rename:
        pattern = re.compile(rule.pattern)
        if not any(map(pattern.search, changed)):
            raise _nothing("rename", rule.pattern, changed)
        changed = [_bounded(pattern.sub(rule.replacement, name), name) for name in changed]
    return _distinct(names, [add + name for name in changed])


def _found(where: str, patterns: Sequence[str], names: list[str]) -> set[str]:
    found: set[str] = set()
    for text in patterns:
        pattern = re.compile(text)
        matching = [name for name in names if pattern.search(name)]
        if not matching:
            raise _nothing(where, text, names)
        found.update(matching)
    return found


def _changed(where: str, pattern: str, before: list[str], after: list[str]) -> list[str]:
    if before == after:
        raise _nothing(where, pattern, before)
    return after


def _bounded(new: str, old: str) -> str:
    if len(new) > LONGEST:
        raise CheckpointConfigError(f"convert: {old[:80]!r} becomes a name of {len(new)} characters, {LONGEST} may be")
    return new


def _distinct(old: list[str], new: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, before in zip(new, old, strict=True):
        if not name:
            raise CheckpointConfigError(
                f"convert: nothing is left of the name {before!r}", remedy="Strip or match less"
            )
        if name in found:
            raise CheckpointIncompatibleError(
                f"convert: {found[name]!r} and {before!r} both become {name!r}",
                remedy="Exclude one of them, or name them apart",
            )
        found[name] = before
    return found


def _nothing(where: str, pattern: str, names: list[str]) -> NothingMatchedError:
    return NothingMatchedError(
        f"convert: {where} {pattern!r} matches none of {len(names)} tensors, such as {_some(names)}",
        remedy="Correct the pattern, or remove it",
    )


def _some(names: list[str]) -> str:
    return ", ".join(name[:120] for name in names[:5]) or "none"
