"""Leaves named tensors out of a load, on both sides: neither looked at nor filled, whatever their shapes.

Pure, like `matching`. A reason that names nothing of the model is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from preheat.errors import CheckpointIncompatibleError, NothingMatchedError
from preheat.names import found
from preheat.paths import holds, meant, some
from preheat.strategies.mapped import KEPT, OUTSIDE, MappedStrategy
from preheat.strategies.matching import Entry, prefix_hint
from preheat.strategies.wrapping import plain

#: Why such a tensor was not loaded, in the report.
RESET = "reset"
BUFFER = "a buffer"
COMPUTED = "computed by the model"

#: Why the tensor of a name is left out; nothing for one that is not.
Why = Callable[[str], str]


@dataclass(frozen=True)
class Left:
    """What remains to be matched on either side, and the names that were taken out of it, each with its reason."""

    checkpoint: Mapping[str, Entry]
    model: Mapping[str, Entry]
    of_checkpoint: Mapping[str, str]
    of_model: Mapping[str, str]


def leave(checkpoint: Mapping[str, Entry], model: Mapping[str, Entry], whys: Iterable[Why]) -> Left:
    """Take out what one of `whys` has a reason for; raises NothingMatchedError when it is all of the model."""
    whys = tuple(why for why in whys if why is not _never)
    of_checkpoint, of_model = _reasons(checkpoint, whys), _reasons(model, whys)
    _refuse_tied(model, of_model)
    if of_model and len(of_model) == len(model):
        reasons = ", ".join(sorted(set(of_model.values())))
        raise NothingMatchedError(
            f"every tensor of the model is left out ({reasons}), so nothing would be loaded", remedy="Leave out fewer"
        )
    if of_checkpoint and len(of_checkpoint) == len(checkpoint):
        raise _nothing_left(of_checkpoint, model, of_model)
    return Left(_without(checkpoint, of_checkpoint), _without(model, of_model), of_checkpoint, of_model)


def _nothing_left(
    of_checkpoint: Mapping[str, str], model: Iterable[str], of_model: Collection[str]
) -> NothingMatchedError:
    reasons, wanted = ", ".join(sorted(set(of_checkpoint.values()))), [name for name in model if name not in of_model]
    hint = prefix_hint(of_checkpoint, wanted)
    return NothingMatchedError(
        f"every tensor of the checkpoint, such as {next(iter(of_checkpoint))}, is left out ({reasons}), so nothing "
        f"would be loaded into {some(wanted, 1)}{hint and f'; {hint}'}",
        remedy="Give its tensors the names that they have in the model, with addPrefix or rename",
    )


def resetting(paths: tuple[str, ...], model: Iterable[str]) -> Why:
    """Layers by their dotted paths; raises NothingMatchedError for a path that is not in the model."""
    _check_paths("nothing to reset at", paths, model)
    return (lambda name: RESET if any(holds(path, name) for path in paths) else "") if paths else _never


def keeping(mapping: MappedStrategy, model: Iterable[str]) -> Why:
    """Tensors that `keep` names or `parts` does not; raises NothingMatchedError where one of both names nothing."""
    model = list(model)
    found(f"{type(mapping).__name__}.keep", mapping.keep, model, "tensors of the model")
    _check_paths(f"{type(mapping).__name__}.parts: the model has nothing at", mapping.parts, map(plain, model))
    return mapping.left_initial if mapping.keep or mapping.parts else _never


def _check_paths(said: str, paths: tuple[str, ...], model: Iterable[str]) -> None:
    model = list(model) if paths else ()
    known = [".".join(parts[:depth]) for parts in (n.split(".") for n in model) for depth in range(1, len(parts) + 1)]
    if empty := [path for path in paths if not any(holds(path, name) for name in model)]:
        raise NothingMatchedError(
            f"{said} {', '.join(f'{path!r}{meant(path, known)}' for path in empty)}",
            remedy="Give dotted paths as in model.named_modules()",
        )


def among(names: Collection[str], reason: str) -> Why:
    """Tensors by their names."""
    return (lambda name: reason if name in names else "") if names else _never


def _never(name: str) -> str:
    """The reason of nobody."""
    return ""


def asked_for(reason: str) -> bool:
    """Whether a tensor of the model keeps its initial value for this reason because the pipeline says so."""
    return reason in (RESET, BUFFER, COMPUTED, OUTSIDE) or reason.startswith(KEPT)


def _reasons(names: Iterable[str], whys: tuple[Why, ...]) -> dict[str, str]:
    if not whys:
        return {}
    given = {name: next(filter(None, (why(name) for why in whys)), "") for name in names}
    return {name: reason for name, reason in given.items() if reason}


def _without(entries: Mapping[str, Entry], names: Collection[str]) -> dict[str, Entry]:
    return {name: entry for name, entry in entries.items() if name not in names}


def _refuse_tied(model: Mapping[str, Entry], chosen: Mapping[str, str]) -> None:
    """A tied tensor cannot be loaded under one name and keep its initial value under the other."""
    others = {entry.memory: name for name, entry in model.items() if name not in chosen and entry.memory is not None}
    for name, reason in chosen.items():
        if other := others.get(model[name].memory):
            raise CheckpointIncompatibleError(
                f"{name!r} cannot keep its initial value ({reason}): it is tied to {other!r}, which is loaded",
                remedy="Leave out both, or untie them",
            )
