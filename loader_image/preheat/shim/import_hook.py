"""Notices when the program imports what Preheat works in, and sets that up then; imports nothing that Python has not.

Runs at the start of every Python process of the container, most of which will never import torch: standard library
only, no other module of Preheat until one of the table's modules is there.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.machinery import ModuleSpec
    from typing import Any

#: Module of the program -> module of Preheat whose `install` is called when it was executed.
ALWAYS = {"torch": "preheat.shim.guard"}
AUTOMATIC = {  # with PREHEAT_SHIM=auto
    "transformers.trainer": "preheat.shim.transformers",
    "accelerate.accelerator": "preheat.shim.accelerate",
}


def install() -> None:
    """Watch for the imports; a second call does nothing."""
    if any(getattr(finder, "watches_for_preheat", False) for finder in sys.meta_path):
        return
    watched = {**ALWAYS, **(AUTOMATIC if os.environ.get("PREHEAT_SHIM") == "auto" else {})}
    for name in watched.keys() & sys.modules.keys():
        set_up(name, watched.pop(name))
    if watched:
        sys.meta_path.insert(0, Finder(watched))


def set_up(name: str, ours: str) -> None:
    """Call `ours.install()`. A training process that cannot be watched must not start: the import of `name` fails.

    Unless `onFailure: Continue` passes over the reason.
    """
    try:
        from importlib import import_module

        import_module(ours).install()
    except Exception as error:
        if _passed_over(error):
            return
        raise ImportError(
            f"Preheat cannot watch this process ({name}: {error}); set PREHEAT_SHIM=off to go without"
        ) from error


def _passed_over(error: Exception) -> bool:
    try:
        from preheat.errors import CheckpointError
        from preheat.shim import policy

        if isinstance(error, CheckpointError):
            policy.pass_over(error)
            return True
    except Exception:
        return False  # what is said is the first error
    return False


class Finder:
    """Finds the watched modules where the other finders do, and adds `set_up` to the end of their execution."""

    watches_for_preheat = True

    def __init__(self, watched: "Mapping[str, str]") -> None:
        self._watched = dict(watched)

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "ModuleSpec | None":
        """The spec of a watched module from the first other finder that has one; None for every other module."""
        if name not in self._watched:
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            self._watch(name, spec.loader)
        return spec

    def _watch(self, name: str, loader: "Any") -> None:
        # On the loader itself, which belongs to this one spec: the module keeps a loader of its usual type.
        execute = loader.exec_module

        def exec_module(module: "Any") -> None:
            vars(loader).pop("exec_module", None)
            execute(module)
            if name in self._watched:
                set_up(name, self._watched[name])
                del self._watched[name]
            if not self._watched and self in sys.meta_path:
                sys.meta_path.remove(self)

        loader.exec_module = exec_module
