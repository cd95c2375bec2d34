"""Whose configuration it is, by the keys that no other system has."""

from __future__ import annotations

from dataclasses import dataclass

from preheat.construction import suggest
from preheat.errors import CheckpointConfigError
from preheat.migrate import anemoi, linnaeus, noether, stackwise
from preheat.migrate.migration import System
from preheat.migrate.settings import Key, Settings

SYSTEMS = {each.name: each for each in (anemoi.SYSTEM, linnaeus.SYSTEM, noether.SYSTEM, stackwise.SYSTEM)}


@dataclass(frozen=True)
class Detected:
    """A system, the keys by which it was known, and other systems that have some of theirs there, too."""

    system: System
    signs: tuple[str, ...]
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As a person is told."""
        by = ", ".join(self.signs[:4]) + (" ..." if len(self.signs) > 4 else "")
        doubt = f"; it has keys of {' and '.join(self.others)}, too" if self.others else ""
        return f"{self.system.name}, {'probably' if self.others else 'surely'}, by {by}{doubt}"


def named(name: str) -> System:
    """The system of that name; an unknown one is answered with the known."""
    if name not in SYSTEMS:
        raise CheckpointConfigError(f"unknown system {name!r:.40}{suggest(name, list(SYSTEMS))}")
    return SYSTEMS[name]


def detected(settings: Settings) -> Detected:
    """The system with the most of its own keys; raises CheckpointConfigError when there is none, or no one."""
    leaves = [leaf for leaf, _ in settings.leaves()]
    found = {name: _signs(system, leaves) for name, system in SYSTEMS.items()}
    ranked = sorted((name for name in found if found[name]), key=lambda name: -len(found[name]))
    remedy = f"Say whose it is: --from {'|'.join(SYSTEMS)}"
    if not ranked:
        raise CheckpointConfigError("no key of a system that is known here is in the configuration", remedy=remedy)
    best, *others = ranked
    if others and len(found[others[0]]) == len(found[best]):
        both = "; ".join(f"{name}: {', '.join(found[name])}" for name in ranked)
        raise CheckpointConfigError(f"the configuration may be of {' or '.join(ranked)} ({both})", remedy=remedy)
    return Detected(SYSTEMS[best], found[best], tuple(others))


def _signs(system: System, leaves: list[str]) -> tuple[str, ...]:
    return tuple(sign for sign in system.signs if any(Key(sign, "").covers(leaf) for leaf in leaves))
