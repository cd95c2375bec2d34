"""Runs stages in order over one context, and refuses to end with a checkpoint that never reached its model.

Knows families, never names of classes: a stage of the user's own that belongs to no family may do anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from time import perf_counter
from typing import Any

from preheat.catalog import build
from preheat.context import CheckpointContext
from preheat.convert import Convert
from preheat.errors import CheckpointConfigError, CheckpointError, NoWeightsError
from preheat.modifiers.custom import CustomModifier
from preheat.stage import CheckpointSource, LoadingStrategy, ModelModifier, PipelineStage
from preheat.verify import Verify

log = logging.getLogger(__name__)


class CheckpointPipeline:
    """Stages in order. `stages` are instances, or mappings in either spelling of the catalog."""

    def __init__(
        self,
        stages: Iterable[PipelineStage | Mapping[str, Any]] = (),
        async_execution: bool = True,
        continue_on_error: bool = False,
    ) -> None:
        self.async_execution = async_execution
        self.continue_on_error = continue_on_error
        self.stages: list[PipelineStage] = [_stage(s, f"stages[{i}]") for i, s in enumerate(stages)]
        check_order(self.stages)

    def execute(self, context: CheckpointContext) -> Any:
        """Run the stages: something to await, or with `async_execution=False` the context itself."""
        return self.execute_async(context) if self.async_execution else self.execute_sync(context)

    def execute_sync(self, context: CheckpointContext) -> CheckpointContext:
        """Run the stages and return the context; works inside a running event loop, as in a notebook."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return _complete(self.execute_async(context))
        with ThreadPoolExecutor(1, "preheat-pipeline") as thread:
            return thread.submit(_complete, self.execute_async(context)).result()

    async def execute_async(self, context: CheckpointContext) -> CheckpointContext:
        """Run the stages; with `continue_on_error` a failed one is recorded, unless it leaves the model untouched."""
        check_order(self.stages)
        check_source(self.stages, context)
        weights_applied, failure = False, None
        for position, stage in enumerate(self.stages):
            marker = f"stage_{position}_{type(stage).__name__}"
            before, started = _fingerprint(context), perf_counter()
            try:
                context = await self._run(position, stage, context)
            except CheckpointError as error:
                context.update_metadata(**{marker: f"failed: {error}"})
                if not self.continue_on_error:
                    raise
                log.warning("%s failed and is passed over: %s", self._label(position), error)
                failure = failure or error
                continue
            context.update_metadata(**{marker: "completed"})
            context.metadata.setdefault("stage_seconds", {})[marker] = perf_counter() - started
            weights_applied |= may_load(stage) and _fingerprint(context) != before
        if not weights_applied:
            self._refuse_initial_weights(context, failure)
        return context

    def add_stage(self, stage: PipelineStage | Mapping[str, Any]) -> None:
        """Append a stage; raises CheckpointConfigError for what is none, or when it does not belong there."""
        grown = [*self.stages, _stage(stage, f"stages[{len(self.stages)}]")]
        check_order(grown)
        self.stages = grown

    def remove_stage(self, stage: PipelineStage) -> None:
        """Take a stage out; one that is not there is only logged."""
        if stage in self.stages:
            self.stages.remove(stage)
        else:
            log.warning("%s is not in the pipeline, nothing removed", type(stage).__name__)

    def clear_stages(self) -> None:
        """Take all stages out."""
        self.stages.clear()

    def __len__(self) -> int:
        return len(self.stages)

    def __repr__(self) -> str:
        names = ", ".join(type(stage).__name__ for stage in self.stages)
        return (
            f"CheckpointPipeline([{names}], async_execution={self.async_execution}, "
            f"continue_on_error={self.continue_on_error})"
        )

    async def _run(self, position: int, stage: PipelineStage, context: CheckpointContext) -> CheckpointContext:
        try:
            result = await stage.process(context)
        except CheckpointError as error:
            error.add_note(f"in {self._label(position)}")
            raise
        except MemoryError:
            raise  # nothing that follows could be trusted
        except Exception as error:
            raise CheckpointError(f"{self._label(position)} failed: {type(error).__name__}: {error}") from error
        if not isinstance(result, CheckpointContext):
            raise CheckpointError(
                f"{self._label(position)} returned {type(result).__name__}",
                remedy="End `process` with `return context`",
            )
        return result

    def _label(self, position: int) -> str:
        return f"stage {position + 1}/{len(self.stages)} ({type(self.stages[position]).__name__})"

    def _refuse_initial_weights(self, context: CheckpointContext, failure: CheckpointError | None) -> None:
        if context.model is None or not context.has_checkpoint_data():
            return
        if failure:
            raise NoWeightsError(f"no weights were applied to the model: {failure}") from failure
        raise NoWeightsError(
            "a checkpoint was opened and none of its weights were applied to the model",
            remedy="Add a strategy such as weights_only or transfer_learning",
        )


def check_order(stages: Iterable[PipelineStage]) -> None:
    """Raise CheckpointConfigError when families do not follow one another: source, conversion, strategy, modifier."""
    converter = loader = modifier = None
    for position, stage in enumerate(stages):
        where = f"stages[{position}] ({type(stage).__name__})"
        if isinstance(stage, CheckpointSource) and loader is not None:
            raise CheckpointConfigError(
                f"{where} is a source after the strategy {loader}", remedy=f"Move it before {loader}"
            )
        if isinstance(stage, CheckpointSource) and converter is not None:
            raise CheckpointConfigError(f"{where} is a source after {converter}", remedy=f"Move it before {converter}")
        if isinstance(stage, Convert):
            _check_conversion(where, converter, loader)
            converter = where
        if isinstance(stage, LoadingStrategy):
            if loader is not None:
                raise CheckpointConfigError(
                    f"{where} is a second strategy after {loader}", remedy="Keep one: the second would undo the first"
                )
            if modifier is not None:
                raise CheckpointConfigError(
                    f"{where} is a strategy after the modifier {modifier}", remedy=f"Move it before {modifier}"
                )
            loader = where
        if isinstance(stage, ModelModifier) and not isinstance(stage, CustomModifier):
            modifier = modifier or where


def _check_conversion(where: str, converter: str | None, loader: str | None) -> None:
    if loader is not None:
        raise CheckpointConfigError(f"{where} comes after the strategy {loader}", remedy=f"Move it before {loader}")
    if converter is not None:
        raise CheckpointConfigError(f"{where} is a second convert after {converter}", remedy="Make one stage of them")


def check_source(stages: Iterable[PipelineStage], context: CheckpointContext) -> None:
    """Raise CheckpointConfigError for a strategy without a checkpoint; log a checkpoint without a strategy."""
    stages = list(stages)
    loader = next((s for s in stages if isinstance(s, LoadingStrategy)), None)
    if loader and not context.has_checkpoint_data() and not any(map(may_open, stages)):
        raise CheckpointConfigError(
            f"{type(loader).__name__} has no checkpoint to load",
            remedy="Begin the pipeline with a source such as s3, http or local, or set context.checkpoint_data",
        )
    source = next((s for s in stages if isinstance(s, CheckpointSource)), None)
    if source and not any(map(may_load, stages)):
        name = type(source).__name__
        log.warning("%s opens a checkpoint that no stage loads. Add a strategy such as weights_only", name)


def may_open(stage: PipelineStage) -> bool:
    """Whether `stage` may put a checkpoint into the context; a stage of no family may."""
    return not isinstance(stage, (LoadingStrategy, ModelModifier, Verify, Convert))


def may_load(stage: PipelineStage) -> bool:
    """Whether weights that change while `stage` runs count as loaded. A custom modifier may hold a loader."""
    never = (CheckpointSource, Verify, Convert, ModelModifier)
    return not isinstance(stage, never) or isinstance(stage, CustomModifier)


def _stage(stage: Any, where: str) -> PipelineStage:
    if callable(getattr(stage, "process", None)) and not isinstance(stage, type):
        found: PipelineStage = stage
        return found
    return build(stage, where)


def _complete(work: Coroutine[Any, Any, CheckpointContext]) -> CheckpointContext:
    # asyncio.run would leave the thread without the event loop that the program may have set.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work)


def _fingerprint(context: CheckpointContext) -> Any:
    """What changes when weights are written: the strategy's name, or torch's count of writes per tensor.

    So a stage of the user's own that calls `load_state_dict` counts, whether it says so in the metadata or not.
    """
    model = context.model
    tensors = chain(model.parameters(), model.buffers()) if hasattr(model, "parameters") else ()
    return context.get_metadata("loading_strategy"), [(id(tensor), _writes(tensor)) for tensor in tensors]


def _writes(tensor: Any) -> int:
    try:
        return int(tensor._version)
    except RuntimeError:  # torch counts no writes of tensors made in inference mode
        return 0
