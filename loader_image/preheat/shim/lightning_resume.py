"""Gives Lightning's own restore the training state of a bundle, as if Lightning had read a checkpoint by itself.

Lightning reads `ckpt_path` between the model's `configure_model` and the strategy's set-up, keeps what it read, and
restores model, callbacks, loops, optimizers and schedulers from there, in several steps. We put the state there right
before; no pickle is read. Lightning leaves it there unless it has a `ckpt_path` of its own, which then wins. That place
is no public one, so a Lightning that does not take it from there is refused before the first step.
"""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Any

from preheat.errors import CheckpointIncompatibleError, NoWeightsError
from preheat.formats.trainer import RANDOM_STATES
from preheat.formats.training_state import opaque_in, parts_of
from preheat.shim.starting import beginning
from preheat.strategies import random_states
from preheat.strategies.mapped import MappedStrategy
from preheat.strategies.optimizer_state import match_optimizer
from preheat.strategies.resuming import kept, left_to_do, refuse_opaque, same_number, training_state

_NEEDED = ("optimizer_states", "lr_schedulers", "loops")


class Resumption:
    """One hand-over to one trainer; `follow` its steps in the order of the methods."""

    def __init__(self, trainer: Any, pl_module: Any) -> None:
        self._connector = _connector_of(trainer)
        self._mapping, checkpoint = _checkpoint(pl_module)
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
        checkpoint = self._connector._loaded_checkpoint
        optimizers, states = trainer.optimizers, checkpoint["optimizer_states"]
        same_number("optimizer", optimizers, {f"optimizer_states.{i}": state for i, state in enumerate(states)})
        schedulers = {f"lr_schedulers.{i}": state for i, state in enumerate(checkpoint["lr_schedulers"])}
        same_number("scheduler", trainer.lr_scheduler_configs, schedulers)
        names = {id(parameter): name for name, parameter in pl_module.named_parameters()}
        fresh = kept(names, self._mapping)
        checkpoint["optimizer_states"] = [
            match_optimizer(state, optimizer, names, fresh).state
            for state, optimizer in zip(states, optimizers, strict=True)
        ]
        if self._random and len(self._random) == trainer.world_size:  # before the loop draws an order of the data
            random_states.restore(self._random[trainer.global_rank])

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


def _connector_of(trainer: Any) -> Any:
    connector = getattr(trainer, "_checkpoint_connector", None)
    if not hasattr(connector, "_loaded_checkpoint") or not hasattr(connector, "restore_training_state"):
        raise CheckpointIncompatibleError(
            "this version of Lightning restores in a way that Preheat does not know", remedy="Use weightsOnly"
        )
    strategy = trainer.strategy
    if strategy.restore_checkpoint_after_setup or not strategy.lightning_restore_optimizer:
        raise CheckpointIncompatibleError(
            f"{type(strategy).__name__} restores optimizers in its own way, which is not supported yet",
            remedy="Use weightsOnly, or Lightning's ckpt_path",
        )
    return connector


def _checkpoint(pl_module: Any) -> tuple[MappedStrategy, dict[str, Any]]:
    """The strategy, and what Lightning would have read, the model's weights as they are in the model by now.

    Entries with objects that cannot be made are left out, as the report says; optimizers and loops may have none.
    """
    begun = beginning()
    with closing(begun.open()) as data, closing(training_state(data)) as training:
        mapping, tree = left_to_do(begun.pipeline().stages, data, training)
        missing = [key for key in _NEEDED if not isinstance(tree.get(key), (list, dict))]
        if missing:
            raise CheckpointIncompatibleError(
                f"the checkpoint has no {', '.join(missing)}, so it is not one of Lightning's whole checkpoints",
                remedy="Save it without save_weights_only, or use weightsOnly or coldStart",
            )
        parts = parts_of(tree)
        refuse_opaque({**parts.optimizers, **parts.schedulers, "loops": tree["loops"]})
        made = {key: value for key, value in tree.items() if not any(opaque_in(value))}
        callbacks = tree.get("callbacks")
        if isinstance(callbacks, dict):
            made["callbacks"] = {key: value for key, value in callbacks.items() if not any(opaque_in(value))}
        # Without callbacks Lightning tells none that it restores.
        return mapping, {"callbacks": {}, **training.read(made), "state_dict": pl_module.state_dict()}


def _migrated(checkpoint: dict[str, Any], pl_module: Any) -> dict[str, Any]:
    """As Lightning brings checkpoints of its older versions up to date."""
    for package in ("lightning.pytorch", "pytorch_lightning"):
        base = getattr(sys.modules.get(package), "LightningModule", None)
        if base and isinstance(pl_module, base):
            from importlib import import_module

            migrated, _ = import_module(f"{package}.utilities.migration").migrate_checkpoint(checkpoint)
            return dict(migrated)
    return checkpoint
