"""Which stages go together in one process, and in which order: source, conversion, strategy, modifiers.

Knows families, never names of classes: a stage of the user's own that belongs to no family may do anything, anywhere.
What is refused comes with the way out. The resource is stricter (`preheat_operator.composition`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from preheat.context import CheckpointContext
from preheat.convert import Convert
from preheat.errors import CheckpointConfigError
from preheat.modifiers.custom import CustomModifier
from preheat.stage import CheckpointSource, LoadingStrategy, ModelModifier, PipelineStage
from preheat.verify import Verify

log = logging.getLogger(__name__)


def check_order(stages: Iterable[PipelineStage]) -> None:
    """Raise CheckpointConfigError when families do not follow one another: source, conversion, strategy, modifier."""
    seen = _Seen()
    for position, stage in enumerate(stages):
        seen.follow(f"stages[{position}] ({type(stage).__name__})", stage)


class _Seen:
    """Where the last stage of each family stands; None: there is none so far."""

    unused = converter = loader = modifier = None

    def follow(self, where: str, stage: PipelineStage) -> None:
        if isinstance(stage, CheckpointSource):
            self._source(where)
        elif isinstance(stage, Convert):
            self._conversion(where)
        elif isinstance(stage, LoadingStrategy):
            self._strategy(where)
        elif isinstance(stage, ModelModifier) and not isinstance(stage, CustomModifier):
            self.modifier = self.modifier or where
        if may_load(stage):
            self.unused = None

    def _source(self, where: str) -> None:
        for kind, earlier in (("the strategy ", self.loader), ("", self.converter)):
            if earlier is not None:
                raise CheckpointConfigError(
                    f"{where} is a source after {kind}{earlier}", remedy=f"Move it before {earlier}"
                )
        if self.unused is not None:
            raise CheckpointConfigError(
                f"{where} is a second source, and nothing reads from {self.unused}",
                remedy="Keep one, or list both under `fallback`, which takes the first that can be read",
            )
        self.unused = where

    def _conversion(self, where: str) -> None:
        if self.loader is not None:
            raise CheckpointConfigError(
                f"{where} comes after the strategy {self.loader}", remedy=f"Move it before {self.loader}"
            )
        if self.converter is not None:
            raise CheckpointConfigError(
                f"{where} is a second convert after {self.converter}", remedy="Make one stage of them"
            )
        self.converter = where

    def _strategy(self, where: str) -> None:
        if self.loader is not None:
            raise CheckpointConfigError(
                f"{where} is a second strategy after {self.loader}", remedy="Keep one: the second would undo the first"
            )
        if self.modifier is not None:
            raise CheckpointConfigError(
                f"{where} is a strategy after the modifier {self.modifier}", remedy=f"Move it before {self.modifier}"
            )
        self.loader = where


def check_source(stages: Sequence[PipelineStage], context: CheckpointContext) -> None:
    """Raise CheckpointConfigError for a strategy without a checkpoint; log what else would come to nothing."""
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
    if not stages:
        log.warning("the pipeline has no stages and does nothing. Begin it with a source such as s3, http or local")


def may_open(stage: PipelineStage) -> bool:
    """Whether `stage` may put a checkpoint into the context; a stage of no family may."""
    return not isinstance(stage, (LoadingStrategy, ModelModifier, Verify, Convert))


def may_load(stage: PipelineStage) -> bool:
    """Whether weights that change while `stage` runs count as loaded. A custom modifier may hold a loader."""
    never = (CheckpointSource, Verify, Convert)
    if isinstance(stage, ModelModifier):
        return stage.loads or isinstance(stage, CustomModifier)
    return not isinstance(stage, never)
