"""Applies the checkpoint in a script that uses Transformers' Trainer and never mentions Preheat.

The methods of the class are wrapped when its module was executed; subclasses that override them and call `super()` are
served, too. `train` fills the model before the Trainer's own restore, which wins, before optimizers are made and before
the model is wrapped; with FSDP2 when Accelerate has sharded it. Evaluation alone fills the first model of the process.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from preheat.context import CheckpointContext
from preheat.shim.accelerate import is_awaited, stages_when_sharded, when_sharded
from preheat.shim.apply import applied_any, apply_to, is_applied, note
from preheat.shim.hooks import wrap_known
from preheat.strategies.mapped import WARM_START

if TYPE_CHECKING:
    from preheat.formats.training_state import Parts

log = logging.getLogger(__name__)

_pending: WeakSet[Any] = WeakSet()  # models whose training is to go on and has not yet


def install() -> None:
    """Wrap the Trainer, whose module is imported already."""
    hooks = {"train": _train, "call_model_init": _make, "_inner_training_loop": _loop}
    evaluating = ("evaluate", "predict", "evaluation_loop")
    wrap_known(sys.modules["transformers.trainer"].Trainer, {**hooks, **dict.fromkeys(evaluating, _evaluate)})


def _train(trainer: Any, train: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if trainer.model_init is None:
        _fill_to_train(trainer, trainer.model)
    return train(*args, **kwargs)


def _make(trainer: Any, call_model_init: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A model that `train` makes; the one that is made with the Trainer is never trained."""
    model = call_model_init(*args, **kwargs)
    if getattr(trainer, "is_in_train", False):  # not there yet while the Trainer is made
        _fill_to_train(trainer, model)
    return model


def _loop(trainer: Any, loop: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `train` comes to when the model is there, and restored if the script asked for that."""
    model = trainer.model
    if given := kwargs.get("resume_from_checkpoint"):
        _pending.discard(model)
        _note_filled(trainer, model, f"Transformers then restored {given} over it, as resume_from_checkpoint asks")
    if model not in _pending:
        return loop(*args, **kwargs)
    from preheat.shim.transformers_resume import resumption  # torch

    def begun(restored: str) -> None:
        _pending.discard(model)
        note(model, restored)

    with resumption(trainer, begun) as folder:
        return loop(*args, **{**kwargs, "resume_from_checkpoint": folder})


def _evaluate(trainer: Any, evaluate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A later model that is only evaluated may have been loaded from a file by the script and is left alone."""
    model = trainer.model
    if not applied_any():
        _fill(trainer, model)
    elif not any(map(is_applied, model.modules())):
        log.info("Preheat: %s is a further model that is not trained; left as it is", type(model).__name__)
    return evaluate(*args, **kwargs)


def _fill_to_train(trainer: Any, model: Any) -> None:
    """Fill it, or let it be filled when it is sharded; whether its training is to go on has to be known before."""
    applied = any(map(is_applied, model.modules()))
    stages = None if applied else stages_when_sharded(trainer.accelerator)
    if stages is None:
        _fill(trainer, model)
        return
    when_sharded(model, lambda: _fill(trainer, model))
    if stages.takes_training_state:
        _pending.add(model)


def _note_filled(trainer: Any, model: Any, text: str) -> None:
    """A remark on a model that is filled, or on one that will be."""

    def fill() -> None:
        _fill(trainer, model)
        _pending.discard(model)
        note(model, text)

    if is_awaited(model):
        when_sharded(model, fill)
    else:
        note(model, text)


def _fill(trainer: Any, model: Any) -> None:
    if any(map(is_applied, model.modules())):  # also when the script applied it to a part
        return

    def resumable(parts: Parts) -> None:
        from preheat.shim.transformers_resume import check  # torch

        check(trainer, parts)

    optimizer = None if trainer.model_init else trainer.optimizer  # with model_init it is that of the model before
    context = CheckpointContext(model=model, optimizer=optimizer, restored_elsewhere=True, resumable=resumable)
    if apply_to(context).strategy == WARM_START:
        _pending.add(model)
