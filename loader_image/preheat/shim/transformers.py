"""Applies the checkpoint in a script that uses Transformers' Trainer and never mentions Preheat.

The methods of the class are wrapped when its module was executed; subclasses that override them and call `super()` are
served, too. `train` fills the model before the Trainer's own restore, which wins, before optimizers are made and before
the model is wrapped. Evaluation alone fills the first model of the process.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from preheat.context import CheckpointContext
from preheat.shim.apply import applied_any, apply_to, is_applied, note
from preheat.shim.hooks import wrap_known

log = logging.getLogger(__name__)


def install() -> None:
    """Wrap the Trainer, whose module is imported already."""
    hooks = {"train": _train, "call_model_init": _make, "_inner_training_loop": _loop}
    evaluating = ("evaluate", "predict", "evaluation_loop")
    wrap_known(sys.modules["transformers.trainer"].Trainer, {**hooks, **dict.fromkeys(evaluating, _evaluate)})


def _train(trainer: Any, train: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if trainer.model_init is None:
        _fill(trainer, trainer.model)
    return train(*args, **kwargs)


def _make(trainer: Any, call_model_init: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A model that `train` makes; the one that is made with the Trainer is never trained."""
    model = call_model_init(*args, **kwargs)
    if getattr(trainer, "is_in_train", False):  # not there yet while the Trainer is made
        _fill(trainer, model)
    return model


def _loop(trainer: Any, loop: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `train` comes to when the model is there, and restored if the script asked for that."""
    if given := kwargs.get("resume_from_checkpoint"):
        note(trainer.model, f"Transformers then restored {given} over it, as resume_from_checkpoint asks")
    return loop(*args, **kwargs)


def _evaluate(trainer: Any, evaluate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A later model that is only evaluated may have been loaded from a file by the script and is left alone."""
    model = trainer.model
    if not applied_any():
        _fill(trainer, model)
    elif not any(map(is_applied, model.modules())):
        log.info("Preheat: %s is a further model that is not trained; left as it is", type(model).__name__)
    return evaluate(*args, **kwargs)


def _fill(trainer: Any, model: Any) -> None:
    if not any(map(is_applied, model.modules())):  # also when the script applied it to a part
        apply_to(CheckpointContext(model=model))
