"""What a warm start does: match optimizer and scheduler, load the weights, then restore both, and tell the progress."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from preheat.bundle.data import CheckpointData
from preheat.bundle.training import TrainingState
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, NothingMatchedError
from preheat.formats.layouts import WEIGHT_KEYS
from preheat.formats.merged import NO_TRAINING
from preheat.formats.optimizer_names import follow
from preheat.formats.saved import LAYOUT
from preheat.formats.training_state import Parts, opaque_in, require_optimizer
from preheat.stage import PipelineStage
from preheat.strategies import own_state
from preheat.strategies.filling.spread_state import read_entry
from preheat.strategies.loading import load_matching, origin, touching
from preheat.strategies.mapped import WARM_START, MappedStrategy
from preheat.strategies.matching import Tolerance
from preheat.strategies.optimizer_state import Matched, match_optimizer
from preheat.strategies.weights import open_weights
from preheat.strategies.wrapping import plain

_PROGRESS = ("epoch", "global_step")


@dataclass(frozen=True)
class Matches:
    """The objects of the training process, each with the state that it gets."""

    optimizers: Sequence[tuple[Any, Matched]]
    schedulers: Sequence[tuple[Any, Mapping[str, Any]]]


def resume(context: CheckpointContext, tolerance: Tolerance, mapping: MappedStrategy) -> CheckpointContext:
    """Fill the context's model, optimizer and scheduler from its checkpoint.

    A framework that restores its own optimizers (`context.restored_elsewhere`) gets them there, with all the rest.
    Raises before anything is touched, or says that the model was.
    """
    context.validate_for_stage(WARM_START, ["model", "checkpoint_data"])
    assert context.checkpoint_data is not None  # noqa: S101 - for the type checker; validated above
    with closing(training_state(context.checkpoint_data)) as training:
        weights = open_weights(context.checkpoint_data)
        tree = follow(training.tree, lambda: mapping.follow(weights.entries))
        parts = require_optimizer(tree, origin(context) or "the checkpoint")
        if context.resumable:
            context.resumable(parts)
        progress = {key: parts.rest[key] for key in _PROGRESS if isinstance(parts.rest.get(key), int)}
        elsewhere = context.restored_elsewhere or context.pl_module is not None
        found = Matches((), ()) if elsewhere else match(context, parts, mapping)
        own_state.check(context, parts.rest)
        kept = context.optimizer, context.scheduler
        left = ["no scheduler (scheduler=False)"] if context.scheduler is False and parts.schedulers else []
        context = load_matching(context, WARM_START, tolerance, mapping)
        context.optimizer, context.scheduler = kept
        with touching():
            restore(found, training)
            state = progress if elsewhere else training.read(parts.rest)
            besides = own_state.restore(context, state, own=not elsewhere and _is_own(context.checkpoint_data))
    context.update_metadata(
        training_state=state,
        restored=[*_restored(found), *left, *besides, *(f"{key} {value}" for key, value in progress.items())],
        not_made=dict(opaque_in(parts.rest)),
        **progress,
    )
    return context


def _is_own(data: object) -> bool:
    """Whether `preheat.save` wrote it."""
    return isinstance(data, CheckpointData) and data.index.layout == LAYOUT


def training_state(data: Mapping[str, Any]) -> TrainingState:
    """What is not weights; raises NothingMatchedError for a bundle that was made without it."""
    if isinstance(data, CheckpointData):
        if data.merged:
            raise CheckpointConfigError(NO_TRAINING)
        if found := data.training_state():
            return found
        raise NothingMatchedError(
            "the bundle was made without training state",
            remedy="Have the loader make it, with warmStart among its stages",
        )
    # Optimizers keep the tensors that they are given, and change them.
    return TrainingState(copy.deepcopy({key: value for key, value in data.items() if key not in WEIGHT_KEYS}))


def left_to_do(
    stages: Iterable[PipelineStage], data: CheckpointData, training: TrainingState
) -> tuple[MappedStrategy, Any]:
    """The warm start among the stages of this process, and the state under the names that it gives."""
    mapping = next(stage for stage in stages if isinstance(stage, MappedStrategy))
    return mapping, follow(training.tree, lambda: mapping.follow(data.index.tensors))


def match(context: CheckpointContext, parts: Parts, mapping: MappedStrategy) -> Matches:
    """Each optimizer and scheduler of the context with its state, in the order of the checkpoint."""
    optimizers, schedulers = listed(context.optimizer), listed(context.scheduler)
    states = {} if context.scheduler is False else parts.schedulers
    if not optimizers:
        raise CheckpointConfigError(
            "a warm start needs the optimizer, and was given none",
            remedy="Call preheat.apply(model, optimizer=..., scheduler=...) when they are built, or use weightsOnly",
        )
    same_number("optimizer", optimizers, parts.optimizers)
    if schedulers or states:
        same_number("scheduler", schedulers, states)
    refuse_opaque({**parts.optimizers, **states})
    names = {id(parameter): name for name, parameter in context.model.named_parameters()}
    fresh = kept(names, mapping)
    return Matches(
        [
            (each, match_optimizer(s, each, names, fresh))
            for each, s in zip(optimizers, parts.optimizers.values(), strict=True)
        ],
        [(each, _matching(s, each)) for each, s in zip(schedulers, states.values(), strict=True)],
    )


def kept(names: Mapping[int, str], mapping: MappedStrategy) -> set[int]:
    """Those of the parameters that keep their initial value: no state of the checkpoint belongs to it."""
    return {each for each, name in names.items() if mapping.left_initial(name) or mapping.left_initial(plain(name))}


def restore(found: Matches, training: TrainingState) -> None:
    """Hand each object its state; tensors go where the optimizer's own `load_state_dict` takes them."""
    for optimizer, matched in found.optimizers:
        entries: Mapping[int, Any] = _Entries(matched, training)
        rest = {key: value for key, value in matched.state.items() if key != "state"}
        optimizer.load_state_dict(
            {"state": entries if _takes_one_by_one(optimizer) else dict(entries), **training.read(rest)}
        )
    for scheduler, state in found.schedulers:
        scheduler.load_state_dict(training.read(state))


class _Entries(Mapping[int, Any]):
    """The entries of an optimizer's parameters, each read when it is asked for.

    So that what is on its way to a device is never all in memory.
    """

    def __init__(self, matched: Matched, training: TrainingState) -> None:
        self._entries, self._spread, self._training = matched.state["state"], matched.spread, training

    def __getitem__(self, key: int) -> Any:
        entry = self._entries[key]
        if key in self._spread and isinstance(entry, Mapping):
            return read_entry(entry, self._spread[key], self._training)
        return self._training.read(entry)

    def __iter__(self) -> Iterator[int]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _takes_one_by_one(optimizer: Any) -> bool:
    """Whether the state is seen by torch's own code alone, which asks for each entry once and keeps no dictionary."""
    own = getattr(type(optimizer), "load_state_dict", None) is torch.optim.Optimizer.load_state_dict
    return own and not getattr(optimizer, "_optimizer_load_state_dict_pre_hooks", True)


def refuse_opaque(states: Mapping[str, Any]) -> None:
    """Raise CheckpointIncompatibleError for a state that holds an object whose class is never made."""
    for path, state in states.items():
        for where, name in opaque_in(state, path):
            raise CheckpointIncompatibleError(
                f"{where} of the checkpoint is an object of {name}, which is never made from a file",
                remedy="Save plain values and tensors, or start fresh with weightsOnly or coldStart",
            )


def listed(given: Any) -> list[Any]:
    """One object, several or none, as a list."""
    return [] if given is None or given is False else list(given) if isinstance(given, (list, tuple)) else [given]


def same_number(kind: str, given: list[Any], saved: Mapping[str, Any]) -> None:
    if len(given) != len(saved):
        found = ", ".join(list(saved)[:8]) or "none"
        raise CheckpointIncompatibleError(
            f"the checkpoint has the state of {len(saved)} {kind}s ({found}), and {len(given)} were given",
            remedy=f"Give as many, in this order, as `{kind}` (a list if there are several), or use weightsOnly"
            + (", or in plain torch scheduler=False to leave them" if kind == "scheduler" and not given else ""),
        )


def _matching(saved: Mapping[str, Any], scheduler: Any) -> Mapping[str, Any]:
    """torch takes whatever a scheduler is given as its attributes, so another class's state would pass."""
    own = scheduler.state_dict()
    if (theirs := saved.keys() - own.keys()) and (ours := own.keys() - saved.keys()):
        raise CheckpointIncompatibleError(
            f"the checkpoint's scheduler has {', '.join(sorted(theirs))}, {type(scheduler).__name__} has "
            f"{', '.join(sorted(ours))}: it is another kind of scheduler",
            remedy="Build the scheduler as the checkpoint's was, or start fresh with weightsOnly or coldStart",
        )
    return {key: _with_numbers(value, own.get(key)) for key, value in saved.items()}


def _with_numbers(value: Any, own: Any) -> Any:
    """Steps as keys are numbers again where the format, as torch.distributed.checkpoint's, keeps keys as texts."""
    if not isinstance(value, dict) or not isinstance(own, dict) or not all(isinstance(key, int) for key in own):
        return value
    if not own or not all(isinstance(key, str) and key.removeprefix("-").isdecimal() for key in value):
        return value
    numbered = {int(key): each for key, each in value.items()}
    return Counter(numbered) if isinstance(own, Counter) else numbered


def _restored(found: Matches) -> list[str]:
    said = [
        f"{type(optimizer).__name__} ({matched.parameters} parameters by {'name' if matched.named else 'position'})"
        for optimizer, matched in found.optimizers
    ]
    return said + [type(scheduler).__name__ for scheduler, _ in found.schedulers]
