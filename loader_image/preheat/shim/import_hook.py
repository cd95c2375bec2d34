"""Notices when the program imports torch, and sets up the guard then; imports nothing that the interpreter has not.

Runs at the start of every Python process of the container, most of which will never import torch: standard library
only, no other module of Preheat until torch is there.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from typing import Any


def install() -> None:
    """Watch for the import of torch; a second call does nothing."""
    if "torch" in sys.modules:
        on_torch()
    elif not any(getattr(finder, "watches_torch_for_preheat", False) for finder in sys.meta_path):
        sys.meta_path.insert(0, TorchFinder())


def on_torch() -> None:
    """Set up the guard. A training process that cannot be guarded must not start: the import of torch fails."""
    try:
        from preheat.shim import guard

        guard.install()
    except Exception as error:
        raise ImportError(f"Preheat cannot watch this process ({error}); set PREHEAT_SHIM=off to go without") from error


class TorchFinder:
    """Finds torch where the other finders do, and adds `on_torch` to the end of its execution."""

    watches_torch_for_preheat = True

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "ModuleSpec | None":
        """The spec of torch from the first other finder that has one; None for every other module."""
        if name != "torch":
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            self._watch(spec.loader)
        return spec

    def _watch(self, loader: "Any") -> None:
        # On the loader itself, which belongs to this one spec: torch keeps a loader of its usual type.
        execute = loader.exec_module

        def exec_module(module: "Any") -> None:
            vars(loader).pop("exec_module", None)
            execute(module)
            on_torch()
            if self in sys.meta_path:
                sys.meta_path.remove(self)

        loader.exec_module = exec_module
