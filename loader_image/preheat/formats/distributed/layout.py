"""Where the model's weights are among the items of a torch.distributed.checkpoint folder.

Saving flattens a tree into names; the way to each of them is kept beside it, and the tree can be made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from preheat.errors import CheckpointValidationError
from preheat.formats.distributed.metadata import Path
from preheat.formats.layouts import (
    LIGHTNING_VERSION,
    WEIGHT_KEYS,
    Layout,
    has_tensors,
    is_tensor,
    no_weights,
    split,
)

#: What may lie around the state dicts: torch's own guides keep model and optimizer in one object called `app`.
_AROUND: tuple[Path, ...] = ((), ("app",))

#: How names begin that are no weights, in checkpoints that keep no tree.
_NO_WEIGHTS = ("optim.", "optimizer.")


class _Branch(dict[Any, Any]):
    """A part of the tree that was saved; dictionaries that an item holds are leaves, whatever is in them."""


def take_apart(values: Mapping[str, Any], paths: Mapping[str, Path], meta: Mapping[Any, Any]) -> Layout:
    """Weights under the names that their module gives them, and all the rest, that of `meta` included.

    Raises a CheckpointLoadError that lists what is there when no weights are.
    """
    tree = _tree(values, paths)
    for around in _AROUND:
        holder = _at(tree, around)
        for key in WEIGHT_KEYS:
            leaves = list(_flat(holder.get(key)))
            weights = dict(leaves)
            if not has_tensors(weights):
                continue
            if len(weights) < len(leaves):
                raise CheckpointValidationError(f"two values under {key!r} have the same name")
            tensors, rest = split(weights)
            holder[key] = _Branch(rest)
            if not rest:
                del holder[key]
            state = {**meta, **_with_lists(tree)}
            if LIGHTNING_VERSION in meta:
                return Layout("lightning", tensors, _as_lightning(state))
            return Layout(".".join(map(str, (*around, key))), tensors, state)
    return _raw(tree, paths, meta)


def _as_lightning(state: dict[Any, Any]) -> dict[Any, Any]:
    """The state with its optimizers in a list, as in Lightning's files, not each under a key of its own."""
    optimizers: list[Any] = []
    while (key := f"optimizer_{len(optimizers)}") in state:
        optimizers.append(state.pop(key))
    return {**state, "optimizer_states": optimizers} if optimizers else state


def _raw(tree: _Branch, paths: Mapping[str, Path], meta: Mapping[Any, Any]) -> Layout:
    """Weights without a key of their own, as torchtitan saves them beside the optimizer."""
    weights = {
        name: value
        for name, value in tree.items()
        if is_tensor(value) and (name in paths or not name.startswith(_NO_WEIGHTS))
    }
    if not weights:
        raise no_weights(tree)
    tensors, _ = split(weights)
    rest = _Branch((key, value) for key, value in tree.items() if key not in weights)
    return Layout("raw", tensors, {**meta, **_with_lists(rest)})


def _tree(values: Mapping[str, Any], paths: Mapping[str, Path]) -> _Branch:
    """What was saved, its lists as dictionaries by number; names without a way stay as they are."""
    root = _Branch()
    for name, value in values.items():
        *above, last = paths.get(name, (name,))
        at = root
        for step in above:
            at = at.setdefault(step, _Branch())
            if not isinstance(at, _Branch):
                raise _taken(name)
        if last in at:
            raise _taken(name)
        at[last] = value
    return root


def _taken(name: str) -> CheckpointValidationError:
    return CheckpointValidationError(f"{name[:80]!r} has its place in the saved tree where another value is")


def _at(tree: _Branch, path: Path) -> dict[Any, Any]:
    at: Any = tree
    for step in path:
        at = at.get(step) if isinstance(at, _Branch) else None
    return at if isinstance(at, _Branch) else {}


def _flat(entries: Any) -> Iterator[tuple[str, Any]]:
    """A state dict's values by name; a model in several stages has a level more, and dotted names."""
    for key, value in entries.items() if isinstance(entries, _Branch) else ():
        inside = [] if str(key).endswith("_extra_state") else list(_flat(value))
        if any(is_tensor(leaf) for _, leaf in inside):
            yield from ((f"{key}.{name}", leaf) for name, leaf in inside)
        else:
            yield str(key), value


def _with_lists(value: Any) -> Any:
    """The tree with lists where there were some: branches whose keys count from 0."""
    if not isinstance(value, _Branch):
        return value
    inside = {key: _with_lists(inner) for key, inner in value.items()}
    if inside and all(type(key) is int for key in inside) and inside.keys() == set(range(len(inside))):
        return [inside[position] for position in range(len(inside))]
    return inside
