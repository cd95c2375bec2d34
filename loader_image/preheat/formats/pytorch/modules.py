"""Whole pickled modules: their tensors by the names that `state_dict()` of the living module would give.

The classes stay names; what is read is what every torch.nn.Module keeps: parameters, buffers, submodules. What a class
changes by code of its own cannot be seen in a pickle; modules that are known to do so are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

from preheat.errors import CheckpointLoadError, CheckpointValidationError, UnsupportedFormatError
from preheat.formats.inert.values import FROZENSET, MAX_LEVELS, SET, Node, members
from preheat.index import Tensor

MAX_ENTRIES = 1_000_000  # parameters, buffers and modules; shared modules count wherever they are

_RESAVE = "Save model.state_dict()"
_PARTS = ("_parameters", "_buffers", "_modules")
_HOOKS = ("_state_dict_hooks", "_state_dict_pre_hooks")
_OTHERS = (  # prefixes of classes whose state_dict() is not what they keep
    "torch.nn.utils.parametrize.", "torch.jit.", "torch.fx.", "torch.nn.quantized.", "torch.ao.nn.quantized.",
)  # fmt: skip


def is_module(value: Any) -> TypeGuard[Node]:
    """Whether this is an object that keeps what every torch.nn.Module keeps."""
    state = value.state if isinstance(value, Node) else None
    return isinstance(state, dict) and all(isinstance(state.get(part), dict) for part in _PARTS)


def module_entries(root: Node) -> dict[str, Any]:
    """Every tensor of a module by its path; a tensor that cannot be read stays a node.

    Raises UnsupportedFormatError for modules that say themselves how they are saved, CheckpointLoadError for bombs.
    """
    found: dict[str, Any] = {}
    room = MAX_ENTRIES
    for name, value, cost in _walk(root, "", 0):
        room -= cost + len(name) // 64  # names of nested modules grow with every level
        if room < 0:
            raise CheckpointLoadError(f"the module has more than {MAX_ENTRIES} entries, as bombs do")
        if value is None:
            continue
        if name in found:
            raise CheckpointValidationError(f"the module has two tensors called {name[:80]!r}", remedy=_RESAVE)
        found[name] = value
    return found


def _walk(module: Node, prefix: str, level: int) -> Iterator[tuple[str, Any, int]]:
    """Names with their tensors or None, and how many entries each stands for, in the order of state_dict()."""
    where = f"the module {prefix[:-1][:80]!r}" if prefix else "the module"
    if level > MAX_LEVELS:
        raise CheckpointLoadError(f"{where} contains itself, or modules in more than {MAX_LEVELS} levels")
    _check_plain(module, where)
    transient = _transient(module.state)
    yield prefix, None, 1 + len(transient)
    hidden = frozenset(name for name in transient if isinstance(name, str))
    for name, value in _named(module.state["_parameters"], prefix):
        yield name, _checked_tensor(name, value), 1
    for name, value in _named(module.state["_buffers"], prefix):
        yield name, None if name[len(prefix) :] in hidden else _checked_tensor(name, value), 1
    for name, child in _named(module.state["_modules"], prefix):
        if isinstance(child, Node):
            yield from _walk(child, f"{name}.", level + 1)
        elif child is not None:
            raise UnsupportedFormatError(f"module {name[:80]!r} is a {type(child).__name__}", remedy=_RESAVE)


def _check_plain(module: Node, where: str) -> None:
    if not is_module(module):
        raise UnsupportedFormatError(
            f"{where} is one pickled object of class {module.name}, not a state dict", remedy=_RESAVE
        )
    if not module.new or module.args or module.name.startswith(_OTHERS):
        raise UnsupportedFormatError(
            f"{where} is of class {module.name}, which says itself how it is saved", remedy=_RESAVE
        )
    if any(module.state.get(hooks) for hooks in _HOOKS):
        raise UnsupportedFormatError(
            f"{where}, of class {module.name}, has hooks that change its state dict", remedy=_RESAVE
        )


def _transient(state: dict[Any, Any]) -> list[Any]:
    """The buffers that are left out of a state dict; files of older torch have none."""
    names = state.get("_non_persistent_buffers_set")
    return members(names) if isinstance(names, Node) and names.callee in (SET, FROZENSET) else []


def _named(entries: dict[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in entries.items():
        if not isinstance(name, str):
            raise CheckpointLoadError(f"a part of the module {prefix[:-1][:80]!r} has a name that is no text")
        yield prefix + name, value


def _checked_tensor(name: str, value: Any) -> Any:
    """The value, a tensor; None stands for a parameter that is not set, a refusing node for one that is refused."""
    if value is None or isinstance(value, Tensor) or (isinstance(value, Node) and value.refusal):
        return value
    kind = value.name if isinstance(value, Node) else type(value).__name__
    raise UnsupportedFormatError(f"tensor {name[:80]!r} is an object of class {kind}", remedy=_RESAVE)
