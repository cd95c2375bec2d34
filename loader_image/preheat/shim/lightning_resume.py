"""Gives Lightning's own restore the training state of a bundle, as if Lightning had read a checkpoint by itself.

Lightning reads `ckpt_path` between the model's `configure_model` and the strategy's set-up, keeps what it read, and
restores model, callbacks, loops, optimizers and schedulers from there, in several steps. We put the state there right
before; no pickle is read. Lightning leaves it there unless it has a `ckpt_path` of its own, which then wins. That place
is no public one, so a Lightning that does not take it from there is refused before the first step.

ModelParallelStrategy reads optimizers' states by itself, together with its file. There they are restored by us, right
before Lightning restores the rest: each process reads its part.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from preheat.bundle.training import TrainingState
from preheat.context import CheckpointContext
from preheat.errors import CheckpointIncompatibleError, NoWeightsError
from preheat.formats.trainer import RANDOM_STATES
from preheat.formats.training_state import opaque_in, parts_of
from preheat.ranks import all_or_none
from preheat.saving.lightning_strategies import is_sharded, require_known
from preheat.shim.starting import beginning
from preheat.strategies import random_states
from preheat.strategies.loading import touching
from preheat.strategies.mapped import MappedStrategy
from preheat.strategies.optimizer_state import match_optimizer
from preheat.strategies.resuming import kept, left_to_do, match, refuse_opaque, restore, same_number, training_state

_OPTIMIZERS = "optimizer_states"
_RESTORE = "restore the training state"
_NEEDED = ("lr_schedulers", "loops")


def check(trainer: Any) -> None:
    """Raise CheckpointIncompatibleError where a training cannot go on under this version or strategy of Lightning."""
    connector = getattr(trainer, "_checkpoint_connector", None)
    if not hasattr(connector, "_loaded_checkpoint") or not hasattr(connector, "restore_training_state"):
        raise CheckpointIncompatibleError(
            "this version of Lightning restores in a way that Preheat does not know", remedy="Use weightsOnly"
        )
    require_known(trainer.strategy, "a warm start", "weightsOnly, or Lightning's ckpt_path")


class Resumption:
    """One hand-over to one trainer; `follow` its steps in the order of the methods."""

    def __init__(self, trainer: Any, pl_module: Any) -> None:
        check(trainer)
        self.sharded = is_sharded(trainer.strategy)
        self._connector = trainer._checkpoint_connector
        with all_or_none("open", "read the training state"):
            self._mapping, checkpoint = _checkpoint(pl_module, optimizers=not self.sharded)
        self._random = checkpoint.pop(RANDOM_STATES, None)  # of what Preheat saved; Lightning saves none
        self._connector._loaded_checkpoint = _migrated(checkpoint, pl_module)
        self._identity = id(self._connector._loaded_checkpoint)
        self._step = checkpoint.get("global_step")
        self._taken = False

    def takes(self, checkpoint: Any) -> bool:
        """Whether Lightning restores from what it was handed, as it does unless it has a `ckpt_path`."""
        self._taken = id(checkpoint) == self._identity
        return self._taken

    def match(self, trainer: Any, pl_module: Any) -> None:
        """Bring the optimizers' states into the order of the trainer's optimizers, which are there by now."""
        if not self._taken:
            return
        with all_or_none("load", _RESTORE), touching():
            checkpoint = self._connector._loaded_checkpoint
            optimizers, states = trainer.optimizers, checkpoint[_OPTIMIZERS]
            same_number("optimizer", optimizers, {f"{_OPTIMIZERS}.{i}": state for i, state in enumerate(states)})
            schedulers = {f"lr_schedulers.{i}": state for i, state in enumerate(checkpoint["lr_schedulers"])}
            same_number("scheduler", trainer.lr_scheduler_configs, schedulers)
            names = {id(parameter): name for name, parameter in pl_module.named_parameters()}
            fresh = kept(names, self._mapping)
            checkpoint[_OPTIMIZERS] = [
                match_optimizer(state, optimizer, names, fresh).state
                for state, optimizer in zip(states, optimizers, strict=True)
            ]
        self._draw_as_then(trainer)

    def restore(self, trainer: Any, pl_module: Any) -> None:
        """Give the trainer's optimizers their states, of which each process reads its part."""
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        context = CheckpointContext(model=pl_module, optimizer=list(trainer.optimizers), scheduler=schedulers)
        with all_or_none("load", _RESTORE), touching(), _training() as (mapping, tree, training):
            restore(match(context, parts_of(tree), mapping), training)
        self._draw_as_then(trainer)

    def confirm(self, trainer: Any) -> str:
        """What was restored; raises NoWeightsError when it was nothing."""
        if not self._taken or (self._step is not None and trainer.global_step != self._step):
            version = sys.modules[type(trainer).__module__.partition(".")[0]].__version__
            raise NoWeightsError(
                f"Lightning {version} did not restore the training state: it is at step {trainer.global_step}, the "
                f"checkpoint at {self._step}",
                remedy="Use weightsOnly, or a version of Lightning that docs/frameworks.md names",
            )
        return f"Lightning restored optimizers, schedulers, loops and callbacks at step {trainer.global_step}"

    def _draw_as_then(self, trainer: Any) -> None:
        """Before the loop draws an order of the data."""
        if self._random and len(self._random) == trainer.world_size:
            random_states.restore(self._random[trainer.global_rank])


@contextmanager
def _training() -> Iterator[tuple[MappedStrategy, Any, TrainingState]]:
    """The strategy of this process, the tree of the training state, and what reads it."""
    begun = beginning()
    with closing(begun.open()) as data, closing(training_state(data)) as training:
        yield *left_to_do(begun.pipeline().stages, data, training), training


def _checkpoint(pl_module: Any, *, optimizers: bool) -> tuple[MappedStrategy, dict[str, Any]]:
    """The strategy, and what Lightning would have read, the model's weights as they are in the model by now.

    Entries with objects that cannot be made are left out, as the report says; optimizers and loops may have none.
    """
    with _training() as (mapping, tree, training):
        parts = parts_of(tree)
        missing = [key for key in _NEEDED if not isinstance(tree.get(key), (list, dict))]
        if missing or not parts.optimizers:
            raise CheckpointIncompatibleError(
                f"the checkpoint has no {', '.join([*missing, *([] if parts.optimizers else [_OPTIMIZERS])])}, "
                "so it is not one of Lightning's whole checkpoints",
                remedy="Save it without save_weights_only, or use weightsOnly or coldStart",
            )
        refuse_opaque({**parts.optimizers, **parts.schedulers, "loops": tree["loops"]})
        left = {key: value for key, value in tree.items() if not _holds(str(key), parts.optimizers)}
        made: dict[str, Any] = {key: value for key, value in left.items() if not any(opaque_in(value))}
        callbacks = tree.get("callbacks")
        if isinstance(callbacks, dict):
            made["callbacks"] = {key: value for key, value in callbacks.items() if not any(opaque_in(value))}
        made[_OPTIMIZERS] = list(parts.optimizers.values()) if optimizers else []
        # Without callbacks Lightning tells none that it restores.
        return mapping, {"callbacks": {}, **training.read(made), "state_dict": pl_module.state_dict()}


def _holds(key: str, optimizers: Mapping[str, Any]) -> bool:
    """Whether one of these, by their paths, is in the entry."""
    return any(path == key or path.startswith(f"{key}.") for path in optimizers)


def _migrated(checkpoint: dict[str, Any], pl_module: Any) -> dict[str, Any]:
    """As Lightning brings checkpoints of its older versions up to date."""
    for package in ("lightning.pytorch", "pytorch_lightning"):
        base = getattr(sys.modules.get(package), "LightningModule", None)
        if base and isinstance(pl_module, base):
            from importlib import import_module

            migrated, _ = import_module(f"{package}.utilities.migration").migrate_checkpoint(checkpoint)
            return dict(migrated)
    return checkpoint
