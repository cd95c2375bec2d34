"""Lets Transformers' Trainer go on from the training state of a bundle, as if it resumed from a checkpoint of its own.

The Trainer takes its progress from a file of JSON, which is written for it, and calls methods of its own for optimizer,
scheduler, scaler and random states. For one training these methods are ours, and no pickle is read. They are no public
ones: a Trainer that does not call them is refused before the first step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.optim.optimizer import register_optimizer_step_pre_hook

from preheat.bundle.training import TrainingState
from preheat.context import CheckpointContext
from preheat.errors import TOUCHED, CheckpointIncompatibleError, NoWeightsError, UnsupportedVersionError
from preheat.formats.trainer import RANDOM_STATES, SCALER, TRAINER_STATE
from preheat.formats.training_state import Parts, parts_of
from preheat.ranks import all_or_none
from preheat.saving.averages import AVERAGES
from preheat.shim.accelerate import is_sharded, require_known
from preheat.shim.apply import report_on
from preheat.shim.starting import beginning
from preheat.strategies import random_states
from preheat.strategies.loading import touching
from preheat.strategies.mapped import WARM_START, MappedStrategy
from preheat.strategies.resuming import left_to_do, match, restore, same_number, training_state

_PROGRESS = "trainer_state.json"
_OURS = ("_load_optimizer_and_scheduler", "_load_rng_state")
_WEIGHTS = "_load_from_checkpoint"
_OURS_IF_THERE = "_load_scaler"  # since 4.48


def check(trainer: Any, parts: Parts) -> None:
    """Raise before anything is touched where this Trainer cannot go on from a checkpoint with these parts."""
    kind, known = type(trainer), sys.modules["transformers.trainer"].Trainer
    if missing := [name for name in _OURS if not callable(getattr(trainer, name, None))]:
        raise UnsupportedVersionError(
            f"transformers {_version()} restores in a way that Preheat does not know: {kind.__name__} has no "
            f"{', '.join(missing)}",
            remedy="Use weightsOnly, or a version that docs/frameworks.md names",
        )
    if kind._inner_training_loop is not known._inner_training_loop:
        raise CheckpointIncompatibleError(
            f"{kind.__name__} has a training loop of its own (_inner_training_loop), which need not restore anything",
            remedy="Use weightsOnly",
        )
    require_known(trainer.accelerator)
    progress_in(parts)
    same_number("optimizer", [trainer], parts.optimizers)
    same_number("scheduler", [trainer], parts.schedulers)


def progress_in(parts: Parts) -> dict[str, Any]:
    """The Trainer's own state; of another library's checkpoint the step that it was at."""
    own, step = parts.rest.get(TRAINER_STATE), parts.rest.get("global_step")
    if isinstance(own, dict) and isinstance(own.get("global_step"), int):
        return own
    if isinstance(step, int):
        return {"global_step": step}
    raise CheckpointIncompatibleError(
        "the checkpoint does not say at which step it was saved: it has no trainer_state.json and no global_step",
        remedy="Give the whole checkpoint-N folder that the Trainer wrote, or use weightsOnly",
    )


@contextmanager
def resumption(trainer: Any, begun: Callable[[str], None]) -> Iterator[str]:
    """A folder for `resume_from_checkpoint` while the Trainer's loop runs.

    `begun` is told what was restored, right before the first step.
    """
    with ExitStack() as stack:
        with all_or_none("open", "read the training state"):
            start = beginning()
            data = stack.enter_context(closing(start.open()))
            training = stack.enter_context(closing(training_state(data)))
            mapping, tree = left_to_do(start.pipeline().stages, data, training)
            restoring = _Restoring(trainer, training, mapping, parts_of(tree), begun)
        folder = stack.enter_context(TemporaryDirectory(prefix="preheat-resume-"))
        Path(folder, _PROGRESS).write_text(json.dumps(restoring.progress))
        stack.callback(restoring.attach())
        yield folder


class _Restoring:
    """What takes the place of a Trainer's methods while it goes on."""

    def __init__(
        self,
        trainer: Any,
        training: TrainingState,
        mapping: MappedStrategy,
        parts: Parts,
        begun: Callable[[str], None],
    ) -> None:
        progress = progress_in(parts)
        self.progress = {"train_batch_size": trainer.args.train_batch_size, **progress}
        self._own = progress is parts.rest.get(TRAINER_STATE)
        self._trainer, self._training, self._mapping, self._parts = trainer, training, mapping, parts
        self._begun = begun
        self._restored: list[str] = []
        self._confirmed = False

    def attach(self) -> Callable[[], None]:
        """Put the methods onto the Trainer; what is returned removes them."""
        trainer = vars(self._trainer)
        ours = dict(zip((*_OURS, _OURS_IF_THERE), (self._objects, self._random, self._nothing), strict=True))
        if is_sharded(self._trainer.accelerator):  # its weights are read after the model was sharded, as ours were
            ours[_WEIGHTS] = self._nothing
        trainer.update(ours)
        hook = register_optimizer_step_pre_hook(lambda *_: self._confirm())

        def detach() -> None:
            hook.remove()
            for name in ours:
                trainer.pop(name, None)

        return detach

    def _objects(self, checkpoint: Any = None) -> None:
        """In place of `_load_optimizer_and_scheduler`."""
        if checkpoint is None:
            return
        trainer = self._trainer
        optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # as Accelerate wraps it
        context = CheckpointContext(model=trainer.model, optimizer=optimizer, scheduler=trainer.lr_scheduler)
        with all_or_none("load", "restore the training state"), touching():
            _require_weights(trainer.model)
            restore(match(context, self._parts, self._mapping), self._training)
            self._restored = ["optimizer", "scheduler"]
            scaler, saved = getattr(trainer.accelerator, "scaler", None), self._parts.rest.get(SCALER)
            if scaler is not None and isinstance(saved, Mapping):
                scaler.load_state_dict(self._training.read(saved))
                self._restored.append("scaler")
            self._restore_averages()

    def _restore_averages(self) -> None:
        """Those that our own callback saved, for our own callback."""
        averages = self._parts.rest.get(AVERAGES)
        for callback in self._trainer.callback_handler.callbacks:
            if averages and hasattr(callback, "restore_averages"):
                callback.restore_averages(self._training.read(averages))
                self._restored.append("averages")

    def _random(self, checkpoint: Any = None) -> None:
        """In place of `_load_rng_state`: of the process at hand, where there are as many as there were."""
        states, arguments = self._parts.rest.get(RANDOM_STATES) or [], self._trainer.args
        if not self._own:
            _set_rhythm(self._trainer.state, arguments)
        alike = checkpoint is not None and len(states) == max(arguments.world_size, 1)
        if not alike or not isinstance(state := states[arguments.process_index], Mapping):
            return
        left = random_states.restore(self._training.read(state))
        self._restored.append(f"random states (but {', '.join(left)})" if left else "random states")

    def _nothing(self, checkpoint: Any = None, model: Any = None) -> None:
        """In place of `_load_scaler`, and of `_load_from_checkpoint`."""

    def _confirm(self) -> None:
        """Before each step, since torch runs through its hooks and none can be removed meanwhile; asks once."""
        if self._confirmed:
            return
        self._confirmed = True
        step, wanted = self._trainer.state.global_step, self.progress["global_step"]
        if not self._restored or step != wanted:
            raise NoWeightsError(
                f"transformers {_version()} did not restore the training state: it is at step {step}, the checkpoint "
                f"at {wanted}; {TOUCHED}",
                remedy="Use weightsOnly, or a version that docs/frameworks.md names",
            )
        without = (
            "" if any(each.startswith("random") for each in self._restored) else "; random states were not restored"
        )
        self._begun(f"Transformers went on at step {step}, with {', '.join(self._restored)} of the checkpoint{without}")


def _require_weights(model: Any) -> None:
    """Raise NoWeightsError where `onFailure: Continue` let a sharded model keep its initial weights."""
    reports = [report for report in map(report_on, model.modules()) if report]
    if not any(report.strategy == WARM_START for report in reports):
        raise NoWeightsError(
            "the model has not got the checkpoint's weights, so its training cannot go on from there",
            remedy="Look at what was said before; onFailure: Fail stops there",
        )


def _set_rhythm(state: Any, arguments: Any) -> None:
    """How often to log, evaluate and save, which the Trainer takes from its checkpoint: as its arguments say."""
    for name in ("logging_steps", "eval_steps", "save_steps"):
        steps = getattr(arguments, name)
        if steps is not None:  # below 1 it is a part of all steps
            setattr(state, name, steps if steps >= 1 else ceil(state.max_steps * steps))


def _version() -> str:
    return str(getattr(sys.modules["transformers"], "__version__", "of unknown version"))
