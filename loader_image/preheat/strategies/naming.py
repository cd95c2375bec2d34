"""Under which name each tensor of a checkpoint is matched, or why it is not: the step before `matching`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from preheat.mapping import NameMapping
from preheat.strategies import wrapping


@dataclass(frozen=True)
class Named:
    """Every name of the checkpoint is in one of both."""

    names: Mapping[str, str]  # name in the checkpoint -> name that is matched
    left: Mapping[str, str]  # name in the checkpoint -> why it is left out
    notes: tuple[str, ...]  # for the report


def named(checkpoint: Iterable[str], model: Iterable[str], mapping: NameMapping) -> Named:
    """The names as `mapping` says, then without wrappers; raises as `NameMapping.mapping` does."""
    checkpoint = list(checkpoint)
    new = {old: name for name, old in mapping.mapping(checkpoint).items()}
    changed = {old: name for old, name in new.items() if old != name}
    followed = wrapping.followed(new.values(), model)
    notes = [_note(changed)] if changed else []
    notes += [wrapping.note(followed)] if followed else []
    names = {old: followed.get(name, name) for old, name in new.items()}
    return Named(names, mapping.left_out(checkpoint), tuple(notes))


def _note(changed: Mapping[str, str]) -> str:
    old, new = next(iter(changed.items()))
    return f"{len(changed)} names changed, such as {old} to {new}"
