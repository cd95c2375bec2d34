"""Averaged weights (EMA, SWA) beside the raw ones: which tree of a checkpoint holds them, and under which names.

Nothing is guessed: of several such trees one has to be named. Averages that are kept as a list, without names, are
none of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from preheat.errors import CheckpointIncompatibleError, NothingMatchedError
from preheat.paths import meant

Value = TypeVar("Value")

#: Take the one tree whose path says that it is an average.
AUTO = "auto"

_SAYS = re.compile(r"(?<![a-z])(ema|swa)(?![a-z])|EMA|SWA|E[mM]a(?![a-z])|[aA]verag|[sS]hadow")
_LEVELS = 4  # of dictionaries above a tree
_PARTS = 16  # of a module, the largest, that may be the one whose averages are in another

#: What torch's AveragedModel, timm's ModelEma and others put before the names of the model that they hold.
_WRAPPERS = ("", "module.", "ema_model.")
#: How often an AveragedModel was updated.
COUNT = "n_averaged"


def trees_in(root: Any, is_weights: Callable[[Any], bool]) -> dict[str, Any]:
    """What `is_weights` accepts below `root`, by the keys that lead there, joined by dots; optimizers are left out."""
    found: dict[str, Any] = {}

    def walk(value: Any, path: tuple[str, ...]) -> None:
        if path and is_weights(value):
            found[".".join(path)] = value
        if isinstance(value, Mapping) and "param_groups" not in value and len(path) <= _LEVELS:
            for key, inner in value.items():
                if isinstance(key, (str, int)):
                    walk(inner, (*path, str(key)))

    walk(root, ())
    return found


def trees_among(raw: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """Averages that a module keeps in itself, so that they are among its weights: by the name of that part.

    Each as a tree by the names of the raw weights. Latent diffusion leaves the dots out of the names there.
    """
    counts = Counter(name.partition(".")[0] for name in raw)
    parts = [part for part, _ in counts.most_common(_PARTS)]
    found = {part: _averages_of(raw, part, parts) for part in averages_in(counts)[:_PARTS]}
    return {part: tree for part, tree in found.items() if tree}


def _averages_of(raw: Mapping[str, Value], part: str, parts: Iterable[str]) -> dict[str, Value]:
    """The tree in `part` of the module itself, or of one of its other parts: of whichever has most averages there."""
    trees: list[dict[str, Value]] = [{}]
    for holder in ("", *(f"{other}." for other in parts if other != part)):
        names = {name: name.removeprefix(holder) for name in raw if name.startswith(holder)}
        for there in (f"{part}.", f"{part}.module."):
            trees.append({name: raw[there + rest] for name, rest in names.items() if there + rest in raw})
        flat = {name: f"{part}.{rest.replace('.', '')}" for name, rest in names.items()}
        trees.append({name: raw[other] for name, other in flat.items() if other in raw and other != name})
    return max(trees, key=len)


def averages_in(trees: Iterable[str]) -> list[str]:
    """The paths that say that they lead to an average."""
    return [path for path in trees if _SAYS.search(path)]


def choose(trees: Mapping[str, Any], wanted: str) -> str:
    """The path of the tree that is `wanted`; raises NothingMatchedError that lists the trees there are."""
    if wanted in trees:
        return wanted
    found = averages_in(trees) if wanted == AUTO else []
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointIncompatibleError(
            f"the checkpoint has averaged weights in {len(found)} places: {_some(found)}",
            remedy=f"Name the one that is meant, such as ema: {found[0]!r}",
        )
    what = "no averaged weights" if wanted == AUTO else f"no weights under {wanted!r}{meant(wanted, trees)}"
    there = f"beside the raw weights it holds {_some(trees)}" if trees else "it holds no weights but the raw ones"
    raise NothingMatchedError(
        f"the checkpoint has {what}; {there}", remedy="Name one of its trees under ema, or leave ema out"
    )


def of_model(averaged: Mapping[str, Value], raw: Collection[str]) -> dict[str, Value]:
    """A tree's tensors by the names that the model gives them: without what wraps it, and without counters."""
    names = [name for name in averaged if name != COUNT]

    def known(wrapper: str) -> int:
        return sum(name.startswith(wrapper) and name.removeprefix(wrapper) in raw for name in names)

    wrapper = max(_WRAPPERS, key=known)
    if COUNT in averaged and not known(wrapper):
        wrapper = "module."
    inside = [name for name in names if name.startswith(wrapper)]
    if wrapper == "module." and len(inside) < len(names):  # no wrapper: it would hold all of them
        wrapper, inside = "", list(names)
    return {name.removeprefix(wrapper): averaged[name] for name in inside}


def completed(averaged: Mapping[str, Value], raw: Mapping[str, Value], path: str) -> tuple[dict[str, Value], list[str]]:
    """The averaged weights and, where all of their names are the raw ones', those without an average; their names.

    Averages that are among the raw weights, below `path`, stay there, too.
    """
    alone = [name for name in raw if name not in averaged and not name.startswith(f"{path}.")]
    if averaged.keys() - raw.keys():
        return dict(averaged), []
    return {name: averaged.get(name, value) for name, value in raw.items()}, alone


def said(path: str, alone: Collection[str]) -> str:
    """What the weights are, for a person."""
    rest = f"; without an average, and as they were: {_some(alone, 3)}" if alone else ""
    return f"{path[:200]}{rest}"


def _some(names: Iterable[str], shown: int = 8) -> str:
    names = [name[:120] for name in names]
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
