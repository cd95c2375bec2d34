"""Optimizers' states follow the names of the weights that they belong to, where the checkpoint keeps those names.

torch keeps them as `param_names`, torch.distributed.checkpoint in place of the numbers. A state without names stays as
it is: what belongs to what is then said by the order alone, which no name changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from preheat.formats.training_state import is_optimizer

#: Name of a weight in the checkpoint -> its new one; None for one that is left out.
Names = Mapping[str, str | None]


def follow(tree: Any, of_weights: Callable[[], Names]) -> Any:
    """A training state whose optimizers, at the top or one level below, use the new names; nothing is changed in it.

    The names are asked for where there are optimizers: without one, many names would take room for nothing.
    """
    if not isinstance(tree, Mapping) or not any(map(_has_optimizer, tree.values())):
        return tree
    names = of_weights()
    if all(old == new for old, new in names.items()):
        return tree
    return {key: _follow_near(value, names) if _has_optimizer(value) else value for key, value in tree.items()}


def names_of(group: Mapping[str, Any]) -> list[str] | None:
    """The names of a group's parameters, in its order; None where it has none."""
    keys, given = group["params"], group.get("param_names")
    if isinstance(given, (list, tuple)) and len(given) == len(keys) and _are(given, str) and _are(keys, (int, str)):
        return list(given)
    return list(keys) if _are(keys, str) else None


def _are(values: Iterable[Any], kinds: type | tuple[type, ...]) -> bool:
    return all(isinstance(value, kinds) for value in values)


def _has_optimizer(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return is_optimizer(value) or any(map(is_optimizer, inside))


def _follow_near(value: Any, names: Names) -> Any:
    if is_optimizer(value):
        return _followed(value, names)
    if isinstance(value, list):
        return [_followed(each, names) if is_optimizer(each) else each for each in value]
    return {key: _followed(each, names) if is_optimizer(each) else each for key, each in value.items()}


def _followed(optimizer: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Entries of what is left out go with it."""
    keys: dict[Any, Any] = {}  # of parameters with names -> what they are called now
    groups = [_group(group, names, keys) for group in optimizer["param_groups"]]
    state = optimizer["state"]
    if isinstance(state, Mapping):
        state = {keys.get(key, key): entry for key, entry in state.items() if keys.get(key, key) is not None}
    return {**optimizer, "state": state, "param_groups": groups}


def _group(group: Any, names: Names, keys: dict[Any, Any]) -> Any:
    given = names_of(group) if isinstance(group, Mapping) and isinstance(group.get("params"), (list, tuple)) else None
    if given is None:
        return group
    new = {key: names.get(name, name) for key, name in zip(group["params"], given, strict=True)}
    kept = {key: name for key, name in new.items() if name is not None}
    called = {key: name if isinstance(key, str) else key for key, name in kept.items()}
    keys |= dict.fromkeys(new) | called
    followed = {**group, "params": list(called.values())}
    return {**followed, "param_names": list(kept.values())} if "param_names" in group else followed
