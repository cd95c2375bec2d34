"""When a framework's callback saves, where, and what; the same for all frameworks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from preheat.errors import CheckpointConfigError
from preheat.formats.adapters import CONFIG
from preheat.runs.position import Position
from preheat.runs.retention import Retention
from preheat.saving import adapters
from preheat.saving.averages import Average
from preheat.saving.best import check_modes
from preheat.saving.place import DEFAULT_MODEL, Place
from preheat.saving.saver import MakeState, Wish
from preheat.saving.weights import chosen, weights_of


@dataclass(frozen=True)
class SavePlan:
    """The parameters of a callback."""

    root: str | Path
    every_epochs: int | None = None  # with neither: 1
    every_updates: int | None = None
    metric: str | Mapping[str, str] | None = None  # or several, each with its mode
    mode: str = "min"  # of one metric
    tolerances: Sequence[int] = ()
    run_id: str = ""
    stage: str = ""
    name: str = DEFAULT_MODEL
    template: str | None = None
    parts: Sequence[str] = ()  # saved besides, each on its own
    adapters_only: bool = False
    ema: float | Sequence[float] | None = None  # the factors of averaged weights, which are saved besides
    on_sigterm: bool = True
    random_states: bool = True
    keep: Retention | None = None  # what stays when something was saved; None: all
    sharded: bool = False  # each process writes what it has of tensors that are spread over several
    wait: bool = True

    def __post_init__(self) -> None:
        """Refuse what could not be done at the first save, hours later."""
        for what in ("every_epochs", "every_updates"):
            if (number := getattr(self, what)) is not None and (type(number) is not int or number < 1):
                raise CheckpointConfigError(f"{what} is {number!r:.40}; give a number from 1 on, or None")
        if self.adapters_only and (self.parts or self.ema):
            raise CheckpointConfigError("adapters_only leaves out parts and ema", remedy="Leave out one or the other")
        adapters.check_whole(adapters_only=self.adapters_only, sharded=self.sharded)
        check_modes(self.modes, dict.fromkeys(self.modes, 0.0))
        for part in ("", *self.parts):
            assert self.place(Position(0, 0, 0), part).folder  # noqa: S101 - raises for a name that is none

    @property
    def modes(self) -> Mapping[str, str]:
        """How each metric is compared of which the best is to be known."""
        if isinstance(self.metric, Mapping):
            return self.metric
        return {self.metric: self.mode} if self.metric else {}

    def after_epoch(self, epoch: int) -> bool:
        """Whether to save when so many epochs are over."""
        every = self.every_epochs or (1 if self.every_updates is None else None)
        return every is not None and epoch % every == 0

    def after_update(self, update: int) -> bool:
        """Whether to save when so many updates were made."""
        return self.every_updates is not None and update > 0 and update % self.every_updates == 0

    def averages(self, model: Any) -> list[Average]:
        """Those that are to be kept of a model."""
        factors = self.ema if isinstance(self.ema, Sequence) else [self.ema] if self.ema else []
        return [Average(model, factor) for factor in dict.fromkeys(factors)]

    def place(self, position: Position, part: str = "", info: str = "") -> Place:
        """Where it is saved."""
        where = (self.name, info, part, self.run_id, self.stage, self.template)
        return Place(Path(self.root), position, *where)

    def wishes(
        self,
        model: torch.nn.Module,
        position: Position,
        tree: MakeState,
        metrics: Mapping[str, float],
        averages: Sequence[Average],
        *,
        judged: bool = True,
        tags: Sequence[str] = (),
        plain: Sequence[str] | None = None,
        documents: Mapping[str, bytes] | None = None,
    ) -> Iterator[Wish]:
        """What to save: the training, or its adapters; parts, averages. What is not `judged` cannot become the best."""
        best = {metric: mode for metric, mode in self.modes.items() if judged and metric in metrics}
        named: dict[str, Any] = {"metrics": metrics, "best": best, "tolerances": self.tolerances, "tags": tags}
        named["keep"] = self.keep
        if self.adapters_only:
            files = {CONFIG: adapters.configuration_of(model)}
            yield Wish(self.place(position, adapters.PART), adapters.weights_of(model), **named, documents=files)
            return
        weights = weights_of(model)
        files = dict(documents or {})
        where = self.place(position)
        yield Wish(where, weights, tree, **named, plain=plain, random_states=self.random_states, documents=files)
        for part in self.parts:
            yield Wish(self.place(position, part), chosen(weights, part, ()), **named)
        for each in averages:
            yield Wish(self.place(position, info=each.info), each.weights(), **named)
