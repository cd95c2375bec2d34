"""Applies the bundle that the loader left to a model, once per process and model.

Every model gets the checkpoint when it is asked for: a second call for the same model changes nothing and returns the
first report; a call for another model (cross-validation, a sweep) fills that one too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from preheat import ranks
from preheat.bundle.data import CheckpointData
from preheat.configuration import read_document
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, CheckpointError, CheckpointIncompatibleError
from preheat.pipeline import CheckpointPipeline
from preheat.shim import first_step, policy
from preheat.shim.reports.making import report_of
from preheat.shim.reports.report import Report, publish
from preheat.shim.starting import Beginning, beginning, refused
from preheat.shim.usage import growth, usage
from preheat.strategies.mapped import WARM_START

# Weak: a report must not keep a model's memory.
_reports: WeakKeyDictionary[Any, Report] = WeakKeyDictionary()
_history: list[Report] = []
_restored: WeakSet[Any] = WeakSet()  # optimizers


def apply(
    model: Any,
    optimizer: Any = None,
    scheduler: Any = None,
    pipeline: Any = None,
    *,
    scaler: Any = None,
    device: Any = None,
) -> Report:
    """Run the stages that the bundle in PREHEAT_BUNDLE leaves to this process; call it before the model is wrapped.

    With `pipeline` all of its stages run here, from its source on, and there is no bundle: a CheckpointPipeline, a list
    of stages, a configuration, or the path of a YAML file. A warm start restores `optimizer` and `scheduler`, each one
    object or a list of them, `scaler`, and from what `preheat.save` wrote the random states; `scheduler=False` leaves
    the checkpoint's schedule. Tensors on the meta device get memory on `device`, by default where the rest of the model
    is. In a process group all ranks call it and return together. Raises a CheckpointError that says whether the model
    was touched, on every rank.
    """
    context = CheckpointContext(model=model, optimizer=optimizer, scheduler=scheduler, scaler=scaler, device=device)
    return apply_to(context) if pipeline is None else _fill(context, _pipeline_of(pipeline))


def apply_to(*contexts: CheckpointContext) -> Report:
    """`apply` for a context that may also carry a framework's own object; of several, the first that it fits.

    Where `onFailure: Continue` passes over a failure on all ranks, the first model is left as it is.
    """
    untouched = policy.Untouched(contexts)
    try:
        return _fill_first(contexts)
    except CheckpointError as error:
        with contexts[0].together("go on"):
            refused(error)
            policy.require(error)
            untouched.check(error)
        ranks = contexts[0].ranks
        report = policy.go_on(error, contexts[0].model, ranks.world if ranks else 1)
        _keep(contexts[0].model, report)
        return report


def _fill_first(contexts: Sequence[CheckpointContext]) -> Report:
    refusals: list[CheckpointIncompatibleError] = []
    for context in contexts:
        try:
            return _fill(context)
        except CheckpointIncompatibleError as error:
            if error.touched:
                raise
            refusals.append(error)
    raise refusals[0]


def _fill(context: CheckpointContext, pipeline: CheckpointPipeline | None = None) -> Report:
    """Fill the model from the bundle, or by a pipeline that begins with a source."""
    model = context.model
    if not callable(getattr(model, "state_dict", None)):
        raise CheckpointConfigError(f"preheat.apply needs a torch.nn.Module, not {type(model).__name__}")
    if model in _reports:
        _refuse_unrestored(context, _reports[model])
        return _reports[model]
    given = context.optimizer
    started, before = perf_counter(), usage()
    context.ranks = ranks.present()
    with ExitStack() as opened:
        resumption = None
        if pipeline is None:
            begun = _begin(context, opened)
            pipeline, resumption = begun.pipeline(), begun.resumption
        seconds = {"open": perf_counter() - started}
        with context.together("load") as facts:
            context = pipeline.execute_sync(context)
            data = context.checkpoint_data
            if isinstance(data, CheckpointData):
                opened.callback(data.close)
            report = report_of(context, getattr(data, "manifest", None), seconds, resumption)
            facts.update(ranks.outcome(report))
    waited = {"wait": context.ranks.waited} if context.ranks else {}
    seconds = {**report.seconds, **waited, "total": perf_counter() - started}
    report = replace(report, seconds=seconds, memory=growth(before))
    _keep(model, report)
    if report.strategy == WARM_START:
        _remember(given)
    first_step.release()
    publish(report)
    return report


def _keep(model: Any, report: Report) -> None:
    _reports[model] = report
    _history.append(replace(report, state={}))  # tensors that whoever called may drop


def _remember(optimizer: Any) -> None:
    from preheat.strategies.resuming import listed  # torch

    _restored.update(listed(optimizer))


def _refuse_unrestored(context: CheckpointContext, report: Report) -> None:
    """A warm start that leaves an optimizer fresh must not pass for one that restored it."""
    from preheat.strategies.resuming import listed  # torch

    if report.strategy == WARM_START and any(each not in _restored for each in listed(context.optimizer)):
        raise CheckpointConfigError(
            "this model has gone on from its checkpoint already, with another optimizer",
            remedy="Call preheat.apply once, when the optimizer that trains is built",
        )


def note(model: Any, text: str) -> None:
    """Add a remark to the report of a model that has one, and publish it again: the last line holds."""
    if model in _reports:
        _reports[model] = replace(_reports[model], notes=(*_reports[model].notes, text))
        publish(_reports[model])


def report_on(model: Any) -> Report | None:
    """What was done to `model`; None when nothing was."""
    return _reports.get(model)


def is_applied(model: Any) -> bool:
    """Whether `model` has its checkpoint."""
    return model in _reports


def applied_any() -> bool:
    """Whether a checkpoint was applied in this process, to a model that may be gone by now."""
    return bool(_history)


def _begin(context: CheckpointContext, opened: ExitStack) -> Beginning:
    """Put what this process begins from into the context."""
    with context.together("open") as facts:
        begun = beginning(context.ranks)
        if begun.source is None:
            policy.refuse_absent()
        data = opened.enter_context(closing(begun.open()))
        if context.ranks:
            facts["checkpoint"] = ranks.identity(data)
    context.checkpoint_data = data
    context.checkpoint_path = context.checkpoint_path or data.blob.uri
    return begun


def _pipeline_of(pipeline: Any) -> CheckpointPipeline:
    if isinstance(pipeline, CheckpointPipeline):
        return pipeline
    if isinstance(pipeline, (str, os.PathLike)):
        return CheckpointPipeline.from_config(read_document(Path(pipeline)))
    return (
        CheckpointPipeline(pipeline)
        if isinstance(pipeline, (list, tuple))
        else CheckpointPipeline.from_config(pipeline)
    )
