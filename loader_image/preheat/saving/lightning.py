"""A callback with which Lightning saves what its training can go on from, bit by bit, and no pickle."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from preheat.formats.trainer import RANDOM_STATES
from preheat.runs.names import LAST
from preheat.runs.position import Position
from preheat.saving.averages import Average, states_of
from preheat.saving.lightning_strategies import is_sharded, require_known
from preheat.saving.plan import SavePlan
from preheat.saving.save import flush, saver
from preheat.saving.saver import Wish
from preheat.saving.weights import named_state, parameter_names, unwrapped

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
#: What a training needs of its checkpoint; the rest may name objects, which are not made again.
_PLAIN = ("optimizer_states", "lr_schedulers", "loops", RANDOM_STATES)


class Saving:
    """Saves after every so many epochs or updates, the best by a metric, when the training ends, and on SIGTERM.

    The parameters are those of `SavePlan`. It takes the place of Lightning's own ModelCheckpoint.
    """

    def __new__(cls, *args: Any, **parameters: Any) -> Saving:
        """An object of Lightning's class for such callbacks, of whichever of its two packages are there."""
        if not any(name in sys.modules for name in _PACKAGES):
            importlib.import_module(_PACKAGES[0])
        bases = tuple(sys.modules[name].callbacks.Checkpoint for name in _PACKAGES if name in sys.modules)
        return object.__new__(type("Saving", (cls, *bases), {}))

    def __init__(self, root: Any, **parameters: Any) -> None:
        self._plan = SavePlan(root, **parameters)
        self._saved: int | None = None  # update
        self._updated = 0
        self._ended = self._evaluated = False
        self._averages: list[Average] = []
        self._restored: dict[str, Any] = {}

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Called before anything is built: a strategy whose state cannot be saved is refused before it has trained."""
        require_known(trainer.strategy, "saving without a pickle", "Lightning's ModelCheckpoint, which Preheat reads")
        self._averages = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Called when the model has its weights."""
        self._averages = self._plan.averages(pl_module)
        self._restore_averages()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Called when all is restored."""
        self._updated = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """What Lightning saves of a callback: the averages."""
        return states_of(self._averages)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called before `on_fit_start`, or after it by a strategy that shards."""
        self._restored = state_dict
        self._restore_averages()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Called after each batch; several may make one update."""
        if trainer.global_step != self._updated:
            self._updated = trainer.global_step
            for each in self._averages:
                each.update()
        told = self._plan.on_sigterm and trainer.received_sigterm
        if trainer.global_step != self._saved and (told or self._plan.after_update(trainer.global_step)):
            self._save(trainer, pl_module, trainer.current_epoch, wait=told)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Called when the metrics are those of the present weights."""
        self._evaluated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Called when the epoch's validation is over, too."""
        epoch = trainer.current_epoch + 1
        if self._plan.after_epoch(epoch):
            self._save(trainer, pl_module, epoch)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Called when the training is over; not after an exception."""
        if not self._ended:
            self._save(trainer, pl_module, trainer.current_epoch)
        flush()

    def _restore_averages(self) -> None:
        for each in self._averages:
            if each.info in self._restored:
                each.load_state_dict(self._restored[each.info])

    def _save(self, trainer: Any, pl_module: Any, epoch: int, *, wait: bool = False) -> None:
        with _where_they_are(trainer.strategy):
            checkpoint = trainer._checkpoint_connector.dump_checkpoint()
        del checkpoint["state_dict"]
        model = unwrapped(pl_module)
        names = parameter_names(model)
        checkpoint["optimizer_states"] = [
            named_state(optimizer, names, state)
            for optimizer, state in zip(trainer.optimizers, checkpoint["optimizer_states"], strict=True)
        ]
        position = Position(epoch, trainer.global_step)
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        self._ended = trainer.should_stop or trainer.max_epochs == epoch or trainer.max_steps == trainer.global_step
        judged, self._evaluated = self._evaluated or not trainer.enable_validation, False

        def wishes() -> list[Wish]:
            found = self._plan.wishes(
                *(model, position, lambda states: {**checkpoint, RANDOM_STATES: states}, metrics, self._averages),
                judged=judged,
                tags=[LAST] if self._ended else [],
                plain=_PLAIN,
            )
            return list(found)

        saver.save(wishes, wait=wait or self._plan.wait, sharded=self._plan.sharded)
        self._saved = trainer.global_step

    def __reduce__(self) -> Any:
        # The class is made for the packages at hand, so it has no name that a spawned process could import.
        plan: Mapping[str, Any] = vars(self._plan)
        return _made, (dict(plan),)


@contextmanager
def _where_they_are(strategy: Any) -> Iterator[None]:
    """For its own file a strategy that shards copies all to the host, or to the first process; we save what it has."""
    ours = {"lightning_module_state_dict": dict, "optimizer_state": lambda optimizer: optimizer.state_dict()}
    vars(strategy).update(ours if is_sharded(strategy) else {})
    try:
        yield
    finally:
        for name in ours:
            vars(strategy).pop(name, None)


def _made(parameters: dict[str, Any]) -> Saving:
    return Saving(**parameters)
