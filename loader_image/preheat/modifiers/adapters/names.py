"""What peft calls the tensors of a model with adapters, and those of the files that it saves. Pure, like `matching`.

Where `q` is adapted, its weight is `q.base_layer.weight`, beside `q.lora_A.default.weight`; a PeftModel puts
`base_model.model.` before all names, and a file of adapters leaves the adapter's name (`default`) out. The names of
both sides are brought into one spelling, and paired by it. Several adapters on one side are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from preheat.errors import CheckpointIncompatibleError
from preheat.strategies.wrapping import plain

_KINDS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
_COPY = "modules_to_save"  # a whole module of which the adapter has its own
_WRAPPER = ("base_model", "model")

Parts = tuple[str, ...]


@dataclass
class Spelling:
    """The names of one side by their common spelling: `q.weight`, `q.lora_A.weight`, `head.modules_to_save.weight`."""

    base: dict[str, str] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)
    adapted: dict[str, str] = field(default_factory=dict)  # module -> the name whose first length is its rank
    copied: set[str] = field(default_factory=set)  # modules
    called: set[str] = field(default_factory=set)  # adapters, as far as names tell
    twice: list[str] = field(default_factory=list)  # names whose spelling another name has

    @cached_property
    def modules(self) -> frozenset[str]:
        """The modules that have a tensor of their own, or an adapter."""
        return frozenset({name.rpartition(".")[0] for name in self.base} | self.adapted.keys() | self.copied)


def paired(checkpoint: Iterable[str], model: Iterable[str]) -> tuple[Spelling, Spelling]:
    """Both sides in the spelling in which they have most in common; as they are, where nothing is gained."""
    given, own = (_readings(tuple(side)) for side in (checkpoint, model))
    best = max(((theirs, ours) for ours in own for theirs in given), key=lambda pair: _common(*pair))
    for side, spelling in zip(("checkpoint", "model"), best, strict=True):
        if len(spelling.called) > 1:
            raise CheckpointIncompatibleError(
                f"the {side} has several adapters: {', '.join(sorted(spelling.called))}",
                remedy="Leave one of them: exclude the others with convert, or delete them from the model",
            )
        if spelling.twice:
            raise CheckpointIncompatibleError(
                f"the {side} has {spelling.twice[0]} also under the name that it has without adapters",
                remedy="Exclude one of both with convert",
            )
    return best


def spelled(names: Iterable[str], wrappers: int = 0, *, bare: bool = False) -> Spelling:
    """The names of one side; without what 1: DistributedDataParallel, 2: that and PeftModel put into them.

    With `bare` without what peft leaves around layers whose adapters are not among the names.
    """
    parts = {name: tuple(plain(name).split(".")) for name in names}
    if bare:
        parts = {name: tuple(part for part in each if part != "base_layer") for name, each in parts.items()}
    if wrappers and all(each[0] == "module" for each in parts.values()):
        parts = {name: each[1:] or each for name, each in parts.items()}
    if wrappers > 1:
        parts = {name: _unwrapped(each) for name, each in parts.items()}
    places = {name: _place(each) for name, each in parts.items()}
    adapted = {parts[name][:place] for name, place in places.items() if place and parts[name][place] != _COPY}
    copied = {parts[name][:place] for name, place in places.items() if place and parts[name][place] == _COPY}
    found = Spelling()
    for name, each in parts.items():
        if place := places[name]:
            _add(found, name, _inner(each[:place], adapted, copied), each[place], each[place + 1 :])
        else:
            _put(found, found.base, ".".join(_inner(each, adapted, copied)), name)
    return found


def _readings(names: tuple[str, ...]) -> list[Spelling]:
    """As they are, and with less in them where each name then has a spelling of its own."""
    kept, *others = (spelled(names, wrappers, bare=bare) for bare in (False, True) for wrappers in (0, 1, 2))
    return [kept, *(each for each in others if not each.twice)]


def _common(one: Spelling, other: Spelling) -> tuple[int, int]:
    """Tensors; only where there are none, as of an adapter and a plain model, modules."""
    names = len(one.base.keys() & other.base.keys()) + len(one.adapters.keys() & other.adapters.keys())
    return names, 0 if names else len(one.modules & other.modules)


def renamed(checkpoint: Spelling, model: Spelling) -> dict[str, str]:
    """The model's names of those of the base that the checkpoint calls otherwise."""
    pairs = {name: model.base[short] for short, name in checkpoint.base.items() if short in model.base}
    kept = set(checkpoint.base.values()) - pairs.keys()
    return {name: target for name, target in pairs.items() if name != target and target not in kept}


def received(checkpoint: Spelling, model: Spelling, *, whole: bool) -> dict[str, str]:
    """The model's names of the checkpoint's adapters; one that it does not have keeps its spelling.

    With `whole` all of the checkpoint belongs to the adapter: biases, and modules that it has whole.
    """
    names = {name: model.adapters.get(short, short) for short, name in checkpoint.adapters.items()}
    if whole:
        copies = {short.replace(f".{_COPY}.", "."): name for short, name in model.adapters.items()}
        own = {**model.base, **copies}
        names |= {name: own.get(short, short) for short, name in checkpoint.base.items()}
    return names


def _place(parts: Parts) -> int:
    """Where in a name the adapter begins; 0: it is none of an adapter."""
    for place, part in enumerate(parts):
        if part in _KINDS or (part == _COPY and len(parts) > place + 2):
            return place
    return 0


def _add(found: Spelling, name: str, module: Parts, kind: str, rest: Parts) -> None:
    path = ".".join(module)
    if kind == _COPY or len(rest) > 1 or (rest and "embedding" in kind):  # a file has no name of the adapter here
        found.called.add(rest[0])
        rest = rest[1:]
    if kind == "lora_magnitude_vector":
        rest = ()
    _put(found, found.adapters, ".".join((path, kind, *rest)), name)
    if kind == _COPY:
        found.copied.add(path)
    elif kind.endswith("_A"):
        found.adapted[path] = name


def _put(found: Spelling, names: dict[str, str], short: str, name: str) -> None:
    if names.setdefault(short, name) != name:
        found.twice.append(name)


def _inner(parts: Parts, adapted: set[Parts], copied: set[Parts]) -> Parts:
    """Without what peft puts around the modules that it adapts."""
    return tuple(
        part
        for place, part in enumerate(parts)
        if not (part == "base_layer" and parts[:place] in adapted)
        and not (part == "original_module" and parts[:place] in copied)
    )


def _unwrapped(parts: Parts) -> Parts:
    for place in range(len(parts) - 2):
        if parts[place : place + 2] == _WRAPPER:
            return parts[:place] + parts[place + 2 :]
    return parts
