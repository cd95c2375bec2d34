"""A callback with which Transformers' Trainer saves what its training can go on from, bit by bit, and no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from transformers import TrainerCallback

from preheat.formats.trainer import RANDOM_STATES, SCALER, TRAINER_STATE
from preheat.runs.names import LAST
from preheat.runs.position import Position
from preheat.saving.averages import AVERAGES, Average, states_of
from preheat.saving.plan import SavePlan
from preheat.saving.save import flush, saver
from preheat.saving.saver import Wish
from preheat.saving.termination import Termination
from preheat.saving.weights import named_state, parameter_names, require_whole, unwrapped


class Saving(TrainerCallback):
    """Saves after every so many epochs or updates, the best by a metric, when the training ends, and on SIGTERM.

    The parameters are those of `SavePlan`. What the Trainer logs and evaluates after the same step comes before, so the
    checkpoint has it. `save_strategy="no"` keeps the Trainer from saving in its own way, too.
    """

    def __init__(self, root: Any, **parameters: Any) -> None:
        self._plan = SavePlan(root, **parameters)
        self._termination = Termination()
        self._due = self._told = False
        self._metrics: dict[str, float] = {}
        self._averages: list[Average] = []
        self._restored: Mapping[str, Any] = {}

    def restore_averages(self, averages: Mapping[str, Any]) -> None:
        """Called by a training that goes on, before it begins: the averages that its checkpoint has."""
        self._restored = averages

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called when the model has its weights; from here on SIGTERM is held back."""
        self._averages = self._plan.averages(unwrapped(given["model"]))  # raises for one that cannot be saved
        require_whole(given.get("optimizer"))
        for each in self._averages:
            if each.info in self._restored:
                each.load_state_dict(self._restored[each.info])
        if self._plan.on_sigterm:
            self._termination.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called after each update, before the Trainer logs and evaluates."""
        for each in self._averages:
            each.update()
        self._metrics = {}  # those of other weights
        self._told = self._plan.on_sigterm and self._termination.after(state.global_step)
        self._due |= self._told or self._plan.after_update(state.global_step)
        self._save_unless_more_comes(args, state, control, given)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called after each epoch, before the Trainer logs and evaluates."""
        ended = control.should_training_stop or state.global_step >= state.max_steps
        self._due |= ended or self._plan.after_epoch(round(state.epoch))
        self._save_unless_more_comes(args, state, control, given)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        """Called when something was logged; an evaluation may follow."""
        if not control.should_evaluate and self._due:
            self._save(args, state, given)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **given: Any) -> None:
        """Called when the metrics are there."""
        self._metrics = {name: value for name, value in (metrics or {}).items() if isinstance(value, (int, float))}
        if self._due:
            self._save(args, state, given)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called when the training is over; not after an exception."""
        flush()
        self._termination.__exit__()

    def _save_unless_more_comes(self, args: Any, state: Any, control: Any, given: Any) -> None:
        if self._due and not control.should_log and not control.should_evaluate:
            self._save(args, state, given)

    def _save(self, args: Any, state: Any, given: Any) -> None:
        self._due = False
        model = unwrapped(given["model"])
        optimizer = getattr(given["optimizer"], "optimizer", given["optimizer"])  # as Accelerate wraps it
        scaler = getattr(given["optimizer"], "scaler", None)
        tree = {
            "optimizer": named_state(optimizer, parameter_names(model), optimizer.state_dict()),
            "lr_scheduler": given["lr_scheduler"].state_dict(),
            TRAINER_STATE: json.loads(json.dumps(asdict(state))),
            "global_step": state.global_step,
            **({AVERAGES: states_of(self._averages)} if self._averages else {}),
            **({SCALER: scaler.state_dict()} if scaler is not None else {}),
        }
        config: Any = getattr(model, "config", None)
        files = {"config.json": config.to_json_string().encode()} if hasattr(config, "to_json_string") else {}
        position = Position(int(state.epoch + 1e-9), state.global_step)
        tags = [LAST] if state.global_step >= state.max_steps else []

        def wishes() -> list[Wish]:
            found = self._plan.wishes(
                *(model, position, lambda states: {**tree, RANDOM_STATES: states}, self._metrics, self._averages),
                tags=tags,
                documents=files,
            )
            return list(found)

        saver.save(wishes, wait=self._told or self._plan.wait, sharded=self._plan.sharded)
        if self._told:
            self._termination.obey()
