"""Leaves named layers out of a load, on both sides: neither looked at nor filled, whatever their shapes.

Pure, like `matching`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from preheat.errors import CheckpointIncompatibleError, NothingMatchedError
from preheat.paths import holds, meant
from preheat.strategies.matching import Entry

#: Why such a tensor was not loaded, in the report.
REASON = "reset"


@dataclass(frozen=True)
class Left:
    """What remains to be matched on either side, and the names that were taken out of it."""

    checkpoint: Mapping[str, Entry]
    model: Mapping[str, Entry]
    of_checkpoint: tuple[str, ...]
    of_model: tuple[str, ...]


def leave(checkpoint: Mapping[str, Entry], model: Mapping[str, Entry], paths: tuple[str, ...]) -> Left:
    """Take out what `paths` name; raises NothingMatchedError for a path that is not in the model, or for all of it."""
    chosen = tuple(name for name in model if _named(name, paths))
    _refuse_unmatched(model, paths)
    _refuse_tied(model, chosen)
    if paths and len(chosen) == len(model):
        raise NothingMatchedError(
            "reset_layers name every tensor of the model, so nothing would be loaded", remedy="Name fewer layers"
        )
    unused = tuple(name for name in checkpoint if _named(name, paths))
    return Left(_without(checkpoint, unused), _without(model, chosen), unused, chosen)


def _named(name: str, paths: tuple[str, ...]) -> bool:
    return any(holds(path, name) for path in paths)


def _without(entries: Mapping[str, Entry], names: tuple[str, ...]) -> dict[str, Entry]:
    left = set(names)
    return {name: entry for name, entry in entries.items() if name not in left}


def _refuse_unmatched(model: Mapping[str, Entry], paths: tuple[str, ...]) -> None:
    known = [".".join(parts[:depth]) for parts in (n.split(".") for n in model) for depth in range(1, len(parts) + 1)]
    if empty := [path for path in paths if not any(holds(path, name) for name in model)]:
        raise NothingMatchedError(
            f"nothing to reset at {', '.join(f'{path!r}{meant(path, known)}' for path in empty)}",
            remedy="Give dotted paths as in model.named_modules()",
        )


def _refuse_tied(model: Mapping[str, Entry], chosen: tuple[str, ...]) -> None:
    """A tied tensor cannot be loaded under one name and keep its initial value under the other."""
    left = set(chosen)
    others = {entry.memory: name for name, entry in model.items() if name not in left and entry.memory is not None}
    for name in chosen:
        if other := others.get(model[name].memory):
            raise CheckpointIncompatibleError(
                f"{name!r} cannot be reset: it is tied to {other!r}, which is loaded",
                remedy="Reset both, or untie them",
            )
