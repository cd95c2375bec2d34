"""Methods of other libraries' classes, replaced by ones that go through Preheat first."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from preheat.errors import UnsupportedVersionError
from preheat.shim.apply import applied_any
from preheat.shim.policy import pass_over

#: What takes the place of a method is given the object, the method as it was, bound to it, and the arguments.
Around = Callable[..., Any]


def wrap(kind: type, name: str, around: Around) -> None:
    """Let calls of `kind.name` go to `around(self, method, ...)`; subclasses that call it by `super()` are included."""
    method = getattr(kind, name)

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(self, method.__get__(self), *args, **kwargs)

    setattr(kind, name, wrapped)


def wrap_known(kind: type, hooks: dict[str, Around], needed: Sequence[str] = ()) -> None:
    """Wrap all methods that `hooks` names; where the class lacks one of them or of `needed`, it is of no use here.

    Then making an object raises UnsupportedVersionError, unless the script has applied the checkpoint by itself.
    """
    missing = [name for name in (*hooks, *needed) if not callable(getattr(kind, name, None))]
    if not missing:
        for name, around in hooks.items():
            wrap(kind, name, around)
        return
    package = kind.__module__.partition(".")[0]
    version = getattr(sys.modules[package], "__version__", "of unknown version")
    unknown = UnsupportedVersionError(
        f"{package} {version} is none that Preheat knows: its {kind.__name__} has no {', '.join(missing)}",
        remedy=f"Call preheat.apply(model) before the {kind.__name__} is made, or use a version that "
        "docs/frameworks.md names",
    )

    def refuse(self: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not applied_any():
            pass_over(unknown)
        return method(*args, **kwargs)

    wrap(kind, "__init__", refuse)
