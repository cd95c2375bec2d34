"""Runs stages in order over one context, and refuses to end with a checkpoint that never reached its model.

Which stages go together is `composition`; what can be told before and after a run is `health`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

from preheat.blob import Patience
from preheat.caching import with_cache
from preheat.composition import check_order, check_source, may_load
from preheat.configuration import CheckpointPipelineConfig, configuration_of, settings_of
from preheat.context import CheckpointContext
from preheat.errors import CheckpointError, NoWeightsError
from preheat.health import check_configuration, check_environment, check_outcome
from preheat.module_tree import tensors_within
from preheat.spec import PipelineSpec
from preheat.spelling import build
from preheat.stage import CheckpointSource, ModelModifier, PipelineStage

log = logging.getLogger(__name__)


class CheckpointPipeline:
    """Stages in order. `stages` are instances, or mappings in either spelling of the catalog."""

    def __init__(
        self,
        stages: Iterable[PipelineStage | Mapping[str, Any]] = (),
        async_execution: bool = True,
        continue_on_error: bool = False,
        *,
        cache_dir: str | Path | None = None,
        max_retries: int = 3,
        timeout: float = 300,
    ) -> None:
        folder = None if cache_dir is None else str(cache_dir)
        CheckpointPipelineConfig([], async_execution, continue_on_error, folder, max_retries, timeout)
        self.async_execution = async_execution
        self.continue_on_error = continue_on_error
        self.cache_dir = None if folder is None else Path(folder).expanduser()
        self.patience = Patience(max_retries, timeout)
        self.stages: list[PipelineStage] = [_stage(s, f"stages[{i}]") for i, s in enumerate(stages)]
        check_order(self.stages)

    @classmethod
    def from_config(cls, config: Any) -> CheckpointPipeline:
        """The pipeline of a CheckpointPipelineConfig, or of a mapping: its settings, a resource, a Hydra config."""
        return cls(**settings_of(configuration_of(config)))

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
        self._check_before(context)
        context.patience, context.ema = self.patience, PipelineSpec(tuple(self.stages)).ema
        context.modifiers = [stage for stage in self.stages if isinstance(stage, ModelModifier)]
        context.weights, context.weights_applied = None, False
        failure: CheckpointError | None = None
        running = self._running()
        for position, stage in enumerate(self.stages):
            marker = f"stage_{position}_{type(stage).__name__}"
            before, started = fingerprint(context), perf_counter()
            log.debug("%s begins", self._label(position))
            try:
                context = await self._run(position, running[position], context)
            except CheckpointError as error:
                context.update_metadata(**{marker: f"failed: {error}"})
                if not self.continue_on_error or _out_of_memory(error):
                    raise
                log.warning("%s failed and is passed over: %s", self._label(position), error)
                failure = failure or error
                continue
            context.update_metadata(**{marker: "completed"})
            seconds = context.metadata.setdefault("stage_seconds", {})[marker] = perf_counter() - started
            log.debug("%s ended after %.3f s", self._label(position), seconds)
            context.weights_applied |= may_load(stage) and fingerprint(context) != before
        if not context.weights_applied:
            self._refuse_initial_weights(context, failure)
        self._check_after(context)
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

    def _running(self) -> list[PipelineStage]:
        """The stages as they do their work."""
        stages = with_cache(self.stages, self.cache_dir, self.patience)
        if not PipelineSpec(tuple(self.stages)).takes_training_state:
            return stages
        return [stage.for_training() if isinstance(stage, CheckpointSource) else stage for stage in stages]

    async def _run(self, position: int, stage: PipelineStage, context: CheckpointContext) -> CheckpointContext:
        try:
            result = await stage.process(context)
        except CheckpointError as error:
            error.add_note(f"in {self._label(position)}")
            raise
        except Exception as error:
            if _out_of_memory(error):
                raise  # nothing that follows could be trusted
            raise CheckpointError(f"{self._label(position)} failed: {type(error).__name__}: {error}") from error
        if not isinstance(result, CheckpointContext):
            raise CheckpointError(
                f"{self._label(position)} returned {type(result).__name__}",
                remedy="End `process` with `return context`",
            )
        return result

    def _check_before(self, context: CheckpointContext) -> None:
        check_order(self.stages)
        check_source(self.stages, context)
        environment = check_environment(self.stages, self.cache_dir)
        configuration = check_configuration(context.config, self.stages)
        context.update_metadata(
            validation_performed=True,
            validation_environment_status=environment.status,
            validation_config_status=configuration.status,
        )
        environment.require()
        for warning in configuration.warnings:
            log.warning("%s", warning)

    def _check_after(self, context: CheckpointContext) -> None:
        health = check_outcome(context)
        context.update_metadata(validation_health_status=health.status)
        for sentence in (*health.errors, *health.warnings):
            log.warning("after the run: %s", sentence)

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


def _stage(stage: Any, where: str) -> PipelineStage:
    if callable(getattr(stage, "process", None)) and not isinstance(stage, type):
        found: PipelineStage = stage
        return found
    return build(stage, where)


def _complete(work: Coroutine[Any, Any, CheckpointContext]) -> CheckpointContext:
    # asyncio.run would leave the thread without the event loop that the program may have set.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work)


def fingerprint(context: CheckpointContext) -> Any:
    """What changes when weights are written: the strategy's name, or torch's count of writes per tensor.

    So a stage of the user's own that calls `load_state_dict` counts, whether it says so in the metadata or not.
    """
    writes = [(id(tensor), _writes(tensor)) for tensor in tensors_within(context.model)]
    return context.get_metadata("loading_strategy"), writes


def _writes(tensor: Any) -> int:
    try:
        return int(tensor._version)
    except RuntimeError:  # torch counts no writes of tensors made in inference mode
        return 0


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, on the host or on a device; torch has an error of its own, or none, for either."""
    while error is not None:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
