"""`preheat.save`: a checkpoint in one call, of what a training loop has at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from preheat.errors import CheckpointConfigError
from preheat.formats.adapters import CONFIG
from preheat.formats.trainer import RANDOM_STATES, SCALER
from preheat.runs.position import Position
from preheat.runs.retention import Retention
from preheat.saving import adapters
from preheat.saving.averages import AVERAGES, Average, states_of
from preheat.saving.best import check_modes
from preheat.saving.place import DEFAULT_MODEL, Place
from preheat.saving.saver import Saver, Wish
from preheat.saving.weights import chosen, named_state, parameter_names, require_whole, unwrapped, weights_of
from preheat.strategies.resuming import listed

saver = Saver()


def save(
    root: str | Path,
    model: Any,
    optimizer: Any = None,
    scheduler: Any = None,
    *,
    scaler: Any = None,
    epoch: int | None = None,
    update: int | None = None,
    sample: int | None = None,
    metrics: Mapping[str, Any] | None = None,
    best: Mapping[str, str] | None = None,
    tolerances: Sequence[int] = (),
    tags: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
    random_states: bool = True,
    run_id: str = "",
    stage: str = "",
    name: str = DEFAULT_MODEL,
    info: str = "",
    template: str | None = None,
    part: str = "",
    select: Sequence[str] = (),
    adapters_only: bool = False,
    averages: Average | Sequence[Average] = (),
    keep: Retention | None = None,
    sharded: bool = False,
    wait: bool = True,
) -> Path:
    """Save a checkpoint from which `preheat.apply` goes on, and return its folder, which appears when it is complete.

    It is `<root>[/<run_id>][/<stage>]/checkpoints/<name>[_<info>]_cp=E<epoch>_U<update>_S<sample>`, or called after
    `template`; `latest`, the `tags` and the best by a metric (`best={"loss": "min"}`) are small files beside it. With
    an optimizer it holds what a training needs to go on: optimizer, scheduler, scaler, random states, position, and
    `extra`, plain values, tensors and whatever has a `state_dict`. `part`, `select` and `adapters_only` save some of
    the weights alone; each of the `averages` is saved besides, as a variant. What `keep` does not keep of the
    run's checkpoints is removed then. Without `wait` the tensors are copied and
    written while the training goes on; what goes wrong then is raised by the next save, or by `flush`. In a process
    group all ranks call it, and the first one writes; with `sharded` each writes what it has of tensors that are spread
    over them, to a volume that they share.
    """
    given = unwrapped(model)
    metrics = {each: _number(each, value) for each, value in (metrics or {}).items()}
    check_modes(best or {}, metrics)
    position = Position(*(_count(what, value) for what, value in _counts(epoch, update, sample)))
    if not str(position):
        raise CheckpointConfigError("preheat.save: say where the training is, by epoch, update or sample")
    if select and not (info or part):
        raise CheckpointConfigError(
            "preheat.save: what is selected would have the name of the whole checkpoint",
            remedy="Give it an info of its own, such as info='only=weights'",
        )
    adapters.check_whole(adapters_only=adapters_only, sharded=sharded)
    part_of = adapters.PART if adapters_only else part
    place = Place(Path(root), position, name, info, part_of, run_id, stage, template)
    averages = listed(averages)
    training = _Training(given, optimizer, scheduler, scaler, position, averages, extra or {})
    training.check(alone=bool(part or select or adapters_only))
    pointing: dict[str, Any] = {"metrics": metrics, "best": best or {}, "tolerances": tolerances, "tags": tags}
    pointing["keep"] = keep

    def wishes() -> list[Wish]:
        weights = adapters.weights_of(given) if adapters_only else chosen(weights_of(given), part, select)
        documents = {CONFIG: adapters.configuration_of(given)} if adapters_only else {}
        tree = training.tree if training.optimizers else None
        whole = Wish(place, weights, tree, **pointing, random_states=random_states, documents=documents)
        return [whole, *(Wish(replace(place, info=each.info), each.weights(), **pointing) for each in averages)]

    return saver.save(wishes, wait=wait, sharded=sharded)[0]


def flush() -> None:
    """Wait until what `preheat.save` writes beside the training is on the disk; raises what went wrong with it."""
    saver.finish()


class _Training:
    """What a loop has, as a tree of which a warm start knows the parts."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: Any,
        scheduler: Any,
        scaler: Any,
        position: Position,
        averages: Sequence[Average],
        extra: Mapping[str, Any],
    ) -> None:
        self._model, self._position, self._averages, self._extra = model, position, averages, extra
        self.optimizers, self._schedulers, self._scaler = listed(optimizer), listed(scheduler), scaler

    def check(self, *, alone: bool) -> None:
        """Raise CheckpointConfigError for what would not be saved; `alone`: some of the weights, and no state."""
        for each in self.optimizers:
            require_whole(each)
        beside = bool(self._schedulers or self._scaler is not None or self._extra)
        if alone and (self.optimizers or beside):
            raise CheckpointConfigError(
                "preheat.save: no training goes on from a part of the weights, so none of its state is saved with it",
                remedy="Leave out optimizer, scheduler, scaler and extra, or part, select and adapters_only",
            )
        if beside and not self.optimizers:
            raise CheckpointConfigError(
                "preheat.save: scheduler, scaler and extra are of a training, which cannot go on without its optimizer",
                remedy="Give the optimizer, too",
            )

    def tree(self, random_states: list[Any]) -> dict[str, Any]:
        """Optimizers, schedulers and the rest, each under the key by which it is known."""
        names = parameter_names(self._model)
        at = self._position
        parts = {
            "optimizer": _one_or_all([named_state(each, names, each.state_dict()) for each in self.optimizers]),
            "scheduler": _one_or_all([each.state_dict() for each in self._schedulers]),
            SCALER: self._scaler.state_dict() if self._scaler is not None else None,
            "epoch": at.epoch,
            "global_step": at.update,
            "sample": at.sample,
            AVERAGES: states_of(self._averages) or None,
            RANDOM_STATES: random_states or None,
            "extra": {key: _state_of(value) for key, value in self._extra.items()} or None,
        }
        return {key: value for key, value in parts.items() if value is not None}


def _one_or_all(states: list[Any]) -> Any:
    return states[0] if len(states) == 1 else states or None


def _state_of(value: Any) -> Any:
    return value.state_dict() if callable(getattr(value, "state_dict", None)) else value


def _counts(*values: int | None) -> list[tuple[str, int | None]]:
    return list(zip(("epoch", "update", "sample"), values, strict=True))


def _count(what: str, value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise CheckpointConfigError(f"preheat.save: {what} is {value!r:.80}, not a count")
    return value


def _number(metric: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise CheckpointConfigError(f"preheat.save: metric {metric!r:.80} is {value!r:.80}, not a number") from error
