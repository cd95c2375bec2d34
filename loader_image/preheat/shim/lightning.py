"""Applies the checkpoint in a Lightning script that never mentions it.

Lightning asks `callbacks` through an entry point whenever a Trainer is built. There is no hook between the model's
`configure_model` and the strategy that moves and wraps it, so the callback stands in for `configure_model` once: after
the model has all its layers, before optimizers are configured. Lightning's own restore (`ckpt_path`) follows and wins.
After a warm start that restore gets the bundle's training state (`shim.lightning_resume`).
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from preheat.context import CheckpointContext
from preheat.errors import UnsupportedVersionError
from preheat.shim.apply import applied_any, apply_to, is_applied, note, report_on
from preheat.shim.policy import pass_over
from preheat.strategies.mapped import WARM_START

if TYPE_CHECKING:
    from preheat.formats.training_state import Parts
    from preheat.shim.lightning_resume import Resumption

log = logging.getLogger(__name__)

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_resumed: WeakSet[Any] = WeakSet()  # models whose training went on once: what they have now is further


def callbacks() -> list[Any]:
    """The callback that applies the bundle, in a pod that has one and wants it applied automatically; else none.

    Raises UnsupportedVersionError where Lightning is none that is known, unless the script has applied the checkpoint.
    """
    if os.environ.get("PREHEAT_SHIM") != "auto" or not os.environ.get("PREHEAT_BUNDLE"):
        return []
    if (unknown := _unknown_version()) and not applied_any():
        pass_over(unknown)
    return [] if unknown else [applying_callback()]


def _unknown_version() -> UnsupportedVersionError | None:
    """Why one of the imported packages cannot be served."""
    for name in _PACKAGES:
        version = str(getattr(sys.modules.get(name), "__version__", ""))
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers and not (2, 2) <= (int(numbers[1]), int(numbers[2])) < (3, 0):
            return UnsupportedVersionError(
                f"{name} {version} is none that Preheat knows: 2.2 to 2.x",
                remedy="Call preheat.apply(model) before the Trainer is made, or use a version that is known",
            )
    return None


def _resumable(trainer: Any, stage: str) -> Callable[[Parts], None] | None:
    """What a warm start asks before the model is touched; one that is only evaluated takes the weights alone."""

    def check(_: Parts) -> None:
        from preheat.shim import lightning_resume  # torch

        lightning_resume.check(trainer)

    return check if stage == "fit" else None


def applying_callback() -> Any:
    """A callback for whichever of Lightning's two packages are imported; neither is imported here."""
    bases = tuple(sys.modules[name].Callback for name in _PACKAGES if name in sys.modules)
    return type("ApplyCheckpoint", (ApplyCheckpoint, *bases), {})()


class ApplyCheckpoint:
    """Gives every model that is trained the checkpoint, and the first model at whatever comes first.

    A later model that is only evaluated may have been loaded from a file by the script and is left alone.
    """

    _resumption: Resumption | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Called before the model's own `setup` and `configure_model`."""
        if any(map(is_applied, pl_module.modules())):
            self._resume(trainer, pl_module, stage)
            return  # also when the script applied it to a part, which then is what the checkpoint is for
        if stage != "fit" and applied_any():
            log.info("Preheat: %s is a further model that is not trained; left as it is", type(pl_module).__name__)
            return
        replaced, own = pl_module.configure_model, vars(pl_module).get("configure_model")

        def configure_model() -> None:
            del pl_module.configure_model  # a model that carries a function cannot be copied or sent to a process
            if own is not None:
                pl_module.configure_model = own
            replaced()
            apply_to(CheckpointContext(model=pl_module, pl_module=pl_module, resumable=_resumable(trainer, stage)))
            self._resume(trainer, pl_module, stage)

        pl_module.configure_model = configure_model

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        """Called when Lightning restores a run of its own over what was applied, or what it was handed."""
        if self._resumption and self._resumption.takes(checkpoint):
            if self._resumption.sharded:  # the strategy is set up before Lightning restores
                self._resumption.restore(trainer, pl_module)
            return
        self._resumption = None
        note(pl_module, f"Lightning then restored {trainer.ckpt_path} over it, as ckpt_path asks")

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Called when the optimizers are there and not restored yet."""
        if self._resumption and not self._resumption.sharded:
            self._resumption.match(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Called when all is restored."""
        if self._resumption:
            resumption, self._resumption = self._resumption, None
            note(pl_module, resumption.confirm(trainer))

    def _resume(self, trainer: Any, pl_module: Any, stage: str) -> None:
        report = report_on(pl_module)
        if stage != "fit" or report is None or report.strategy != WARM_START or pl_module in _resumed:
            return
        from preheat.shim.lightning_resume import Resumption  # torch

        _resumed.add(pl_module)
        self._resumption = Resumption(trainer, pl_module)

    def __reduce__(self) -> Any:
        # The class is made for the packages at hand, so it has no name that a spawned process could import.
        return applying_callback, ()
