"""What `onFailure` makes of a failure in a training process: it ends, or goes on from its initial weights and says so.

`Continue` never passes over what is wrong with the checkpoint's bytes or the pipeline (`errors.continuable`), nor over
anything after a model was touched, nor for a model that has no initial weights.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from preheat.bundle.absence import absence_in
from preheat.bundle.data import read_manifest
from preheat.context import CheckpointContext
from preheat.errors import TOUCHED, CheckpointError
from preheat.module_tree import tensors_within
from preheat.pipeline import fingerprint
from preheat.resume.resumption import Resumption
from preheat.shim import first_step
from preheat.shim.environment import bundle_folder
from preheat.shim.reports.making import failure_report
from preheat.shim.reports.report import Report, publish
from preheat.spec import CONTINUE


class Untouched:
    """What models were like before anything was tried."""

    def __init__(self, contexts: Sequence[CheckpointContext]) -> None:
        # Some milliseconds for thousands of tensors.
        self._before = [(context, fingerprint(context)) for context in contexts if _continues()]

    def check(self, error: CheckpointError) -> None:
        """Raise `error` when a training could not start from what the models have now, and say why."""
        if error.touched:
            raise error
        for context, before in self._before:
            if fingerprint(context) != before:
                raise _because(error, TOUCHED) from error
            if any(tensor.is_meta for tensor in tensors_within(context.model)):
                raise _because(error, "the model is on the meta device: no initial weights to go on from") from error


def require(error: CheckpointError) -> None:
    """Raise `error` unless `onFailure: Continue` passes over its kind."""
    if not _continues() or not error.continuable:
        raise error


def go_on(error: CheckpointError, model: Any = None, ranks: int = 1) -> Report:
    """Let this process train without a checkpoint, and say why wherever a report is read."""
    first_step.release()
    report = failure_report(error, pipeline_name(), model, ranks)
    publish(report)
    return report


def pass_over(error: CheckpointError) -> None:
    """`go_on` where no model is at hand; raises `error` where the policy says so."""
    require(error)
    go_on(error)


def refuse_absent() -> None:
    """Raise what the loader met, when it was passed over and there is no bundle."""
    if absence := absence_in(bundle_folder()):
        raise absence.error


def pipeline_name() -> str:
    """The pipeline that this process was given the bundle of; empty when nothing tells."""
    with suppress(CheckpointError):
        if told := Resumption.read(bundle_folder().parent):
            return told.pipeline
        absence = absence_in(bundle_folder())
        return absence.pipeline if absence else read_manifest(bundle_folder()).pipeline.name
    return ""


def _continues() -> bool:
    return os.environ.get("PREHEAT_ON_FAILURE") == CONTINUE


def _because(error: CheckpointError, why: str) -> CheckpointError:
    return type(error)(f"{error.args[0]}; {why}", remedy=error.remedy)
