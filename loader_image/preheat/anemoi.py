"""Anemoi's module names, for stages that were written after its checkpoint guide, where Anemoi is not installed.

A stage of a user's own begins with `from anemoi.training.checkpoint import PipelineStage`. The modules that the guide
names are there then, and what is in them is Preheat's; nothing else of Anemoi is. An Anemoi that is installed wins.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_GUIDE = "anemoi.training.checkpoint"
_PARTS = ("base", "catalog", "exceptions", "formats", "loaders", "modifiers", "pipeline", "sources", "utils")
_PARENTS = ("anemoi", "anemoi.training")
_MODULES = frozenset((*_PARENTS, _GUIDE, *(f"{_GUIDE}.{part}" for part in _PARTS)))


def belongs(module: str | None) -> bool:
    """Whether a module of this name, if it is missing, can be stood in for."""
    return module in _MODULES


def stand_in() -> None:
    """Let imports of the guide's modules find Preheat's names, from now on and after everything else was asked."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname in _MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ not in _PARENTS:
            module.__dict__["__getattr__"] = lambda name: _ours(module.__name__, name)


def _ours(module: str, name: str) -> Any:
    import preheat
    from preheat.catalog import built_in

    if name in preheat.__all__ and not name.startswith("_"):
        return getattr(preheat, name)
    for component in built_in().values():
        if component.__name__ == name:
            return component
    raise AttributeError(f"module {module!r} has no {name!r}: Anemoi is not installed, and Preheat has none either")
