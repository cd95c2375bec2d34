"""Where in a checkpoint's tree the model's weights are: Lightning, Fabric, whole modules, customs of plain torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from preheat.errors import CheckpointConfigError, CheckpointLoadError, UnsupportedFormatError
from preheat.formats import stackwise
from preheat.formats.averages import AUTO, COUNT, averages_in, choose, completed, of_model, said, trees_among, trees_in
from preheat.formats.inert.values import Node
from preheat.formats.pytorch.modules import is_module, module_entries
from preheat.index import Index, Tensor

#: Keys that hold a state dict or a whole module, the first that does is taken.
WEIGHT_KEYS = ("state_dict", "model_state_dict", "model")

LIGHTNING_VERSION = "pytorch-lightning_version"
#: Lightning's WeightAveraging puts the averages into `state_dict`, and the raw weights under this key.
_SWAPPED = "current_model_state"
#: The keys of the raw weights, where the layout's name is another.
_KEYS: Mapping[str, str] = {"lightning": "state_dict", "module": "model"}
EMA_OF_EACH = "averages are those of one checkpoint: name ema in the sources of merge, not in the strategy"
_LIGHTNING_PARTS = frozenset(("callbacks", "optimizer_states", "lr_schedulers", "loops"))
_RESAVE = "Save the model's state_dict() with torch.save"


@dataclass(frozen=True)
class Layout:
    """A checkpoint taken apart: its weights by name, and the tree of all the rest."""

    name: str
    tensors: dict[str, Tensor]
    state: dict[Any, Any]


def take_apart(root: Any) -> Layout:
    """The layout of a checkpoint's tree; raises a CheckpointLoadError that lists its keys when it holds no weights."""
    if is_module(root):
        return Layout("module", _split_module(root), {})
    if isinstance(root, Node):
        raise UnsupportedFormatError(
            f"the file is one pickled object of class {root.name}, not a state dict", remedy=_RESAVE
        )
    if not isinstance(root, dict):
        raise CheckpointLoadError(f"the file holds a {type(root).__name__}, not a state dict", remedy=_RESAVE)
    for key in WEIGHT_KEYS:
        candidate = root.get(key)
        if isinstance(candidate, dict) and has_tensors(candidate):
            tensors, rest = split(candidate)
            state = {other: value for other, value in root.items() if other != key}
            return Layout(_name(root, key), tensors, {**state, key: rest} if rest else state)
        if is_module(candidate):
            others = {other: value for other, value in root.items() if other != key}
            return Layout("module", _split_module(candidate), others)
    if found := _stacks(root):
        return found
    if has_tensors(root) and all(is_tensor(value) or str(key).endswith("_extra_state") for key, value in root.items()):
        return Layout("raw", *split(root))
    return only_averages(root)


def _stacks(root: dict[Any, Any]) -> Layout | None:
    """The layout of a file of Stack-Wise's; None for any other."""
    found, state = stackwise.state_dicts(root) or ({}, {})
    if not any(map(has_tensors, found.values())):
        return None
    tensors = {f"{prefix}{name}": each for prefix, part in found.items() for name, each in split(part)[0].items()}
    return Layout(stackwise.LAYOUT, tensors, state)


def only_averages(root: dict[Any, Any]) -> Layout:
    """The layout of a checkpoint that keeps nothing but averaged weights; raises as `take_apart` does."""
    trees = trees_in(root, _is_weights)
    found = averages_in(trees)
    tensors = of_model(_tensors_of(trees[found[0]]), ()) if len(found) == 1 else {}
    if not tensors:
        raise no_weights(root)
    return Layout(found[0], tensors, _without(root, found[0]))


def averaged(index: Index, wanted: str) -> Index:
    """The index with the averaged weights that are `wanted` in the place of the raw ones, which become state.

    Raises NothingMatchedError that lists the trees there are.
    """
    if index.origins:
        raise CheckpointConfigError(EMA_OF_EACH)
    if index.average or not isinstance(index.state, Mapping):
        return index
    if wanted == AUTO and (averages_in([index.layout]) or _SWAPPED in index.state):
        return replace(index, average=_KEYS.get(index.layout, index.layout))
    raw = index.tensors
    trees = {**trees_in(index.state, _is_weights), **trees_among(raw)}
    path = choose(trees, wanted)
    own = of_model(_tensors_of(trees[path]), raw.keys())
    tensors, alone = completed(own, raw, path)
    left = {name: tensor for name, tensor in raw.items() if name in own or name not in tensors}
    state = {**_without(index.state, path), _KEYS.get(index.layout, index.layout): left}
    return replace(index, tensors=tensors, state=state, average=said(path, alone))


def _is_weights(value: Any) -> bool:
    """Whether it is a tree of weights, which counters alone are not."""
    if is_module(value):
        return True
    items = value.items() if isinstance(value, dict) else ()
    return any(is_tensor(each) and name != COUNT and (isinstance(each, Node) or each.shape) for name, each in items)


def _tensors_of(tree: Any) -> dict[str, Tensor]:
    return _split_module(tree) if is_module(tree) else split(tree)[0]


def _without(tree: Mapping[Any, Any], path: str) -> dict[Any, Any]:
    """The tree without what is at a path."""
    kept = {}
    for key, value in tree.items():
        if path.startswith(f"{key}.") and isinstance(value, Mapping):
            kept[key] = _without(value, path.removeprefix(f"{key}."))
        elif path != str(key):
            kept[key] = value
    return kept


def _name(root: dict[Any, Any], key: str) -> str:
    lightning = LIGHTNING_VERSION in root or len(_LIGHTNING_PARTS & root.keys()) >= 2
    return "lightning" if key == "state_dict" and lightning else key


def is_tensor(value: Any) -> bool:
    """Whether it is one, be it of a kind that is refused."""
    return isinstance(value, Tensor) or (isinstance(value, Node) and bool(value.refusal))


def has_tensors(entries: dict[Any, Any]) -> bool:
    """Whether one of the values is a tensor."""
    return any(map(is_tensor, entries.values()))


def split(entries: dict[Any, Any]) -> tuple[dict[str, Tensor], dict[Any, Any]]:
    """A state dict's tensors and what else is in it; raises UnsupportedFormatError for a tensor that is refused."""
    tensors: dict[str, Tensor] = {}
    rest: dict[Any, Any] = {}
    for name, value in entries.items():
        if not is_tensor(value):
            rest[name] = value
        elif isinstance(value, Node):
            raise UnsupportedFormatError(f"tensor {name!r} is {value.refusal}", remedy="Save it as a dense tensor")
        else:
            tensors[checked_name(name)] = value
    return tensors, rest


def _split_module(module: Node) -> dict[str, Tensor]:
    tensors, _ = split(module_entries(module))
    if not tensors:
        raise CheckpointLoadError(f"the pickled module of class {module.name} has no tensors")
    return tensors


def checked_name(name: Any) -> str:
    """The name of a tensor, any text that has an encoding; raises CheckpointLoadError for the rest."""
    try:
        name.encode()
    except (AttributeError, UnicodeEncodeError) as error:
        raise CheckpointLoadError(f"a tensor is called {name!r}, which is no text", remedy=_RESAVE) from error
    return str(name)


def no_weights(root: dict[Any, Any]) -> CheckpointLoadError:
    """Why this is no checkpoint, with its keys."""
    for key in WEIGHT_KEYS:
        if isinstance(root.get(key), Node):
            return UnsupportedFormatError(
                f"{key!r} is one pickled object of class {root[key].name}, not a state dict", remedy=_RESAVE
            )
    shown = ", ".join(repr(key)[:80] for key in list(root)[:20]) or "none"
    return CheckpointLoadError(
        f"no tensors under {', '.join(WEIGHT_KEYS)}, nor is the file itself a state dict; its top-level keys: {shown}",
        remedy=_RESAVE,
    )
