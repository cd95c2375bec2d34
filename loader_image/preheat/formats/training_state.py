"""Everything of a checkpoint that is not weights, as a JSON document and the tensors that it names.

This is what a warm start takes, so nothing is left out: what JSON lacks is spelled as in `json_state`, and beyond that
`{"$tensor": name}`, `{"$tuple": [...]}` and `{"$counter": {...}}`. An object of any other class is kept by its name
alone, `{"$opaque": "module.Class"}`. A state of too many values is refused.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from preheat.errors import CheckpointLoadError, NothingMatchedError
from preheat.formats.inert.values import FROZENSET, MAX_LEVELS, SET, Global, Key, Node, members
from preheat.formats.json_state import CHARACTERS, Opaque, is_plain, opaque_name, spell_plain
from preheat.index import Tensor

MAX_VALUES = 4_000_000
MAX_BITS = 12_000  # of an integer: Python reads no number of more than 4300 digits from a text
_LONGEST_STEP = 200  # characters of a key in a tensor's name
_COUNTER = Global("collections", "Counter")


@dataclass(frozen=True)
class Spelled:
    """A training state taken apart. Paths are the keys that lead to a value, joined by dots."""

    document: Any
    tensors: Mapping[str, Tensor]  # by path, made distinct; a storage that is shared is there once
    opaque: Mapping[str, str]  # path -> class


@dataclass(frozen=True)
class Parts:
    """The entries of a training state by what is restored from them; `rest` has every other top-level entry."""

    optimizers: Mapping[str, Mapping[str, Any]]  # by path
    schedulers: Mapping[str, Mapping[str, Any]]
    rest: Mapping[Any, Any]


def spell_state(tree: Any, *, max_values: int = MAX_VALUES) -> Spelled:
    """The state of an index, or one of Python's own values; raises CheckpointLoadError for more than anyone's has."""
    spelling = _Spelling(max_values)
    return Spelled(spelling.spell(tree, ()), spelling.tensors, spelling.opaque)


def unspell_state(document: Any, tensor: Callable[[str], Any]) -> Any:
    """The tree of a document, with `tensor(name)` for each tensor; raises ValueError or TypeError for what is none."""
    if isinstance(document, list):
        return [unspell_state(value, tensor) for value in document]
    if not isinstance(document, dict):
        return document
    if not any(key.startswith("$") for key in document):
        return {key: unspell_state(value, tensor) for key, value in document.items()}
    [(kind, value)] = document.items()
    if kind == "$tensor":
        return tensor(value)
    if kind == "$items":
        pairs = [(unspell_state(key, tensor), unspell_state(inner, tensor)) for key, inner in value]
        if len(found := dict(pairs)) != len(pairs):
            raise ValueError("two keys of one dictionary are equal")
        return found
    if kind not in _MAKERS:
        raise ValueError(f"{kind:.40} is no spelling")
    return _MAKERS[kind](unspell_state(value, tensor))


def parts_of(tree: Any) -> Parts:
    """Optimizers are known by their shape, at the top or one level below; schedulers by the key that holds them."""
    optimizers: dict[str, Mapping[str, Any]] = {}
    schedulers: dict[str, Mapping[str, Any]] = {}
    rest: dict[Any, Any] = {}
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        found = {path: each for path, each in _near(key, value) if is_optimizer(each)}
        optimizers |= found
        if "sched" in str(key).lower():
            schedulers |= {str(key): value} if isinstance(value, Mapping) else dict(_near(key, value)[1:])
        elif not found and key != "optimizer_states":
            rest[key] = value
    return Parts(optimizers, schedulers, rest)


def require_optimizer(tree: Any, checkpoint: str) -> Parts:
    """The parts of a state; raises NothingMatchedError when there is no optimizer's among them."""
    parts = parts_of(tree)
    if not parts.optimizers:
        keys = ", ".join(map(_shown, list(tree.items())[:20])) if isinstance(tree, Mapping) else ""
        raise NothingMatchedError(
            f"{checkpoint} holds no optimizer's state, so training cannot go on from it; beside the weights it has "
            f"{keys or 'nothing'}",
            remedy="Save it with the optimizer (Lightning: without save_weights_only), or use weightsOnly or coldStart",
        )
    return parts


def _shown(entry: tuple[Any, Any]) -> str:
    key, value = entry
    why = f" ({value.refusal})" if isinstance(value, Node) and value.refusal else ""
    return f"{str(key)[:80]}{why[:300]}"


def opaque_in(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Paths and classes of the opaque objects in a tree that was unspelled."""
    if isinstance(tree, Opaque):
        yield path, tree.name
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from opaque_in(key, path)
            yield from opaque_in(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, (list, tuple, set)):
        for position, value in enumerate(tree):
            yield from opaque_in(value, f"{path}.{position}")


def _near(key: Any, value: Any) -> list[tuple[str, Any]]:
    """The entry itself, and those right inside it."""
    inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    return [(str(key), value), *((f"{key}.{name}", each) for name, each in inside)]


def is_optimizer(value: Any) -> bool:
    """Whether it has the shape of an optimizer's state."""
    return isinstance(value, Mapping) and isinstance(value.get("param_groups"), list) and "state" in value


class _Spelling:
    def __init__(self, max_values: int) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.opaque: dict[str, str] = {}
        self._names: dict[object, str] = {}  # by place
        self._room = self._values = max_values

    def spell(self, value: Any, path: tuple[str, ...]) -> Any:
        self._take(value, path)
        if isinstance(value, Key):
            return self.spell(value.value, path)
        if isinstance(value, Counter):
            return {"$counter": self._spell_dict(value, path)}
        if isinstance(value, dict):
            return self._spell_dict(value, path)
        if isinstance(value, (set, frozenset)):
            return {"$set": self._spell_all(sorted(value, key=repr), path)}  # the same set, the same document
        if isinstance(value, list):
            return self._spell_all(value, path)
        if isinstance(value, tuple):
            return {"$tuple": self._spell_all(value, path)}
        if isinstance(value, Tensor):
            return {"$tensor": self._name(value, ".".join(path))}
        if isinstance(value, Node) and value.callee in (SET, FROZENSET):
            return {"$set": self._spell_all(members(value), path)}
        if isinstance(value, Node) and value.callee == _COUNTER and _holds_dict(value):
            return {"$counter": self.spell(value.args[0], path)}
        return spell_plain(value) if is_plain(value) else self._keep_name(value, ".".join(path))

    def _spell_all(self, values: list[Any] | tuple[Any, ...], path: tuple[str, ...]) -> list[Any]:
        return [self.spell(value, (*path, str(position))) for position, value in enumerate(values)]

    def _spell_dict(self, value: dict[Any, Any], path: tuple[str, ...]) -> Any:
        inside = {key: self.spell(each, (*path, _step(key))) for key, each in value.items()}
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return inside
        return {"$items": [[self.spell(key, (*path, "key")), each] for key, each in inside.items()]}

    def _name(self, tensor: Tensor, path: str) -> str:
        """The name under which the tensor's values are kept; of tensors that share them all, the first's."""
        known = self._names.get(tensor.place) if tensor.size else None
        if known is None:
            known = path or "state"
            while known in self.tensors:
                known += "_"
            self._names[tensor.place] = known
            self.tensors[known] = tensor
        return known

    def _keep_name(self, value: Any, path: str) -> dict[str, str]:
        refusal = f" {value.refusal}" if isinstance(value, Node) and value.refusal else ""
        known = isinstance(value, (Node, Global, Opaque))
        self.opaque[path] = opaque_name(value) + refusal if known else _class_name(value)
        return {"$opaque": self.opaque[path]}

    def _take(self, value: Any, path: tuple[str, ...]) -> None:
        self._room -= 1 + (len(value) // CHARACTERS if isinstance(value, (str, bytes)) else 0)
        if isinstance(value, dict):
            self._room -= sum(len(key) for key in value if isinstance(key, (str, bytes))) // CHARACTERS
        if type(value) is int and value.bit_length() > MAX_BITS:
            raise CheckpointLoadError(f"the training state has an integer of {value.bit_length()} bits")
        if self._room < 0 or len(path) > MAX_LEVELS:
            raise CheckpointLoadError(
                f"the training state has more than {self._values} values or {MAX_LEVELS} levels, at "
                f"{'.'.join(path[:3])[:200]}",
                remedy="Save less beside the weights, tensors instead of long lists, or use weightsOnly or coldStart",
            )


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _holds_dict(node: Node) -> bool:
    return isinstance(node.args, tuple) and len(node.args) == 1 and isinstance(node.args[0], dict)


def _step(key: Any) -> str:
    """A key in a path."""
    key = key.value if isinstance(key, Key) else key
    text = str(key) if isinstance(key, (str, bool, int, float)) else type(key).__name__.lower()
    return text[:_LONGEST_STEP].encode(errors="backslashreplace").decode()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is expected")
    return value


_MAKERS: Mapping[str, Callable[[Any], Any]] = {
    "$tuple": tuple,
    "$set": set,
    "$counter": Counter,
    "$bytes": lambda value: base64.b64decode(_text(value), validate=True),
    "$float": lambda value: float(_text(value)),
    "$complex": lambda value: complex(*value),
    "$opaque": lambda value: Opaque(_text(value)),
}
