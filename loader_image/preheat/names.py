"""Which tensors of a checkpoint are taken, and what they are called then: pure functions of names.

A pattern that matches nothing is refused, because it is nearly always a typo; so are two names that become one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Literal

from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, NothingMatchedError
from preheat.limits import Limit, check_limits
from preheat.paths import meant

#: Characters of a name; a replacement that repeats its match would otherwise grow without end.
LONGEST = 4096

#: Names among which the nearest to a pattern are looked for.
_COMPARED = 2000

Patterns = Annotated[tuple[str, ...], Limit(max_length=64, items=Limit(min_length=1, max_length=256))]

MATCHES = ("regex", "substring", "exact")


@dataclass(frozen=True)
class Rename:
    """Replace what a pattern matches in every name."""

    pattern: Annotated[str, Limit(min_length=1, max_length=256)]
    """What is looked for: by default a regular expression, found anywhere in a name unless it begins with `^`."""

    replacement: Annotated[str, Limit(max_length=256)]
    r"""What is put in the place of each match; `\1` is the first group of a regular expression."""

    match: Literal["regex", "substring", "exact"] = "regex"
    """How the pattern is read; `substring`: as it is, anywhere in a name; `exact`: it is the whole name."""

    def __post_init__(self) -> None:
        """Refuse what could not be applied."""
        check_limits(self)
        if self.match not in MATCHES:
            raise CheckpointConfigError(f"rename: match {self.match!r:.80} is none of {', '.join(MATCHES)}")
        if self.match != "regex":
            return
        try:
            compiled("rename", self.pattern).sub(self.replacement, "")
        except (re.error, IndexError) as error:
            raise CheckpointConfigError(
                f"rename: {self.replacement!r} cannot replace {self.pattern!r}: {error}"
            ) from error

    def matcher(self) -> Callable[[str], bool]:
        """Whether it would change a name, or leave it as it is on purpose."""
        if self.match == "regex":
            search = re.compile(self.pattern).search
            return lambda name: search(name) is not None
        return (lambda name: name == self.pattern) if self.match == "exact" else (lambda name: self.pattern in name)

    def changer(self) -> Callable[[str], str]:
        """What becomes of a name that it matches."""
        if self.match == "regex":
            pattern = re.compile(self.pattern)
            return lambda name: pattern.sub(self.replacement, name)
        return lambda name: name.replace(self.pattern, self.replacement)


def compiled(where: str, pattern: str) -> re.Pattern[str]:
    """The regular expression; raises CheckpointConfigError for what is none."""
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise CheckpointConfigError(f"{where}: {pattern!r} is not a regular expression: {error}") from error


def left_out(where: str, names: Iterable[str], select: Sequence[str], exclude: Sequence[str]) -> dict[str, str]:
    """The names in which no `select` pattern is found (if there is one) or an `exclude` pattern is, each with why."""
    names = list(names)
    chosen = found(f"{where}.select", select, names)
    dropped = found(f"{where}.exclude", exclude, names)
    left = {name: "not selected" for name in names if select and name not in chosen}
    left |= {name: f"excluded by '{pattern}'" for name, pattern in dropped.items()}
    if names and len(left) == len(names):
        raise NothingMatchedError(
            f"{where}: select and exclude leave none of the {len(names)} tensors, such as {_some(names)}",
            remedy="Exclude less",
        )
    return left


def renamed(
    where: str, names: Iterable[str], strip: Sequence[str], rename: Sequence[Rename], add: str
) -> dict[str, str]:
    """New name -> name: each prefix is taken off once, in order, then the replacements, in order, then `add`."""
    names = list(names)
    changed = names
    for prefix in strip:
        if not any(name.startswith(prefix) for name in changed):
            raise _nothing(f"{where}.stripPrefix", prefix, changed)
        changed = [name.removeprefix(prefix) for name in changed]
    for rule in rename:
        matches, change = rule.matcher(), rule.changer()
        if not any(map(matches, changed)):
            raise _nothing(f"{where}.rename", rule.pattern, changed)
        changed = [_bounded(where, change(name), name) if matches(name) else name for name in changed]
    return _distinct(where, names, [add + name for name in changed])


def found(where: str, patterns: Sequence[str], names: Sequence[str], of: str = "tensors") -> dict[str, str]:
    """The names in which a pattern is found, each with the first; NothingMatchedError for one found in none."""
    by_name: dict[str, str] = {}
    for text in patterns:
        pattern = re.compile(text)
        matching = [name for name in names if pattern.search(name)]
        if not matching:
            raise _nothing(where, text, names, of)
        by_name = {**dict.fromkeys(matching, text), **by_name}
    return by_name


def _bounded(where: str, new: str, old: str) -> str:
    if len(new) > LONGEST:
        raise CheckpointConfigError(f"{where}: {old[:80]!r} becomes a name of {len(new)} characters, {LONGEST} may be")
    return new


def _distinct(where: str, old: list[str], new: list[str]) -> dict[str, str]:
    distinct: dict[str, str] = {}
    for name, before in zip(new, old, strict=True):
        if not name:
            raise CheckpointConfigError(
                f"{where}: nothing is left of the name {before!r}", remedy="Strip or match less"
            )
        if name in distinct:
            raise CheckpointIncompatibleError(
                f"{where}: {distinct[name]!r} and {before!r} both become {name!r}",
                remedy="Exclude one of them, or name them apart",
            )
        distinct[name] = before
    return distinct


def _nothing(where: str, pattern: str, names: Sequence[str], of: str = "tensors") -> NothingMatchedError:
    known = dict.fromkeys(_parts(islice(names, _COMPARED)))
    nearest = meant(re.sub(r"[\\^$()|?*+\[\]{}]", "", pattern), known)
    return NothingMatchedError(
        f"{where} {pattern!r} matches none of {len(names)} {of}, such as {_some(names)}{nearest}",
        remedy="Correct the pattern, or remove it",
    )


def _parts(names: Iterable[str]) -> Iterable[str]:
    """The names and the paths that lead to them."""
    for name in names:
        steps = name.split(".")
        yield from (".".join(steps[:depth]) for depth in range(1, len(steps) + 1))


def _some(names: Sequence[str]) -> str:
    return ", ".join(name[:120] for name in names[:5]) or "none"
