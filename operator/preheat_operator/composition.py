"""Which stages go together, and in which order: a source, checks and a conversion, one strategy, modifiers.

The same rules are written into the resource's schema, in CEL (`crd`); texts are shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from preheat.construction import camel_case
from preheat.convert import Convert
from preheat.errors import CheckpointConfigError
from preheat.formats.layouts import EMA_OF_EACH
from preheat.formats.merged import NO_TRAINING
from preheat.modifiers import MODIFIERS
from preheat.sources import SOURCES
from preheat.sources.merge import MergeSource
from preheat.stage import CheckpointSource, LoadingStrategy, ModelModifier, PipelineStage
from preheat.strategies import STRATEGIES

SOURCE_NAMES = tuple(map(camel_case, SOURCES))
STRATEGY_NAMES = tuple(map(camel_case, STRATEGIES))
MODIFIER_NAMES = tuple(map(camel_case, MODIFIERS))
#: Strategies that go on with a training.
RESUMING_NAMES = tuple(camel_case(name) for name, strategy in STRATEGIES.items() if strategy.takes_training_state)
#: Modifiers that may do without a strategy, because they load what they need of the checkpoint.
LOADING_NAMES = tuple(camel_case(name) for name, modifier in MODIFIERS.items() if modifier.loads)


def _any_of(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


SOURCE_FIRST = f"the first stage says where the checkpoint is: begin with {_any_of(SOURCE_NAMES)}"
ONE_SOURCE = "a pipeline has one source: keep one of them, or make a second CheckpointPipeline"
ONE_STRATEGY = f"a model is loaded once: keep one of {', '.join(STRATEGY_NAMES)}"
ONE_CONVERSION = "a checkpoint is converted once: make one convert of them, it renames in a fixed order"
CHECKS_FIRST = (
    "checks and conversion run before the model is touched: put verify and convert after the source and before the "
    "strategy"
)
MODIFIERS_LAST = (
    f"a modifier changes a model that has its weights: put {_any_of(STRATEGY_NAMES)} before {_any_of(MODIFIER_NAMES)}; "
    f"only {_any_of(LOADING_NAMES)} loads by itself"
)


def check_composition(stages: Sequence[PipelineStage]) -> None:
    """Raise CheckpointConfigError with what to change when the stages do not fit together."""
    ranks = [_rank(stage) for stage in stages]
    if ranks[0] != 0:
        raise CheckpointConfigError(f"stages: {SOURCE_FIRST}")
    if ranks.count(0) > 1:
        raise CheckpointConfigError(f"stages: {ONE_SOURCE}")
    if sum(isinstance(stage, Convert) for stage in stages) > 1:
        raise CheckpointConfigError(f"stages: {ONE_CONVERSION}")
    if ranks.count(2) > 1:
        raise CheckpointConfigError(f"stages: {ONE_STRATEGY}")
    loaded = 2 in ranks or any(isinstance(stage, ModelModifier) and stage.loads for stage in stages)
    if 3 in ranks and (not loaded or 2 in ranks[ranks.index(3) :]):
        raise CheckpointConfigError(f"stages: {MODIFIERS_LAST}")
    if any(earlier > later for earlier, later in pairwise(ranks)):
        raise CheckpointConfigError(f"stages: {CHECKS_FIRST}")
    if isinstance(stages[0], MergeSource):
        _check_merged([stage for stage in stages if isinstance(stage, LoadingStrategy)])


def _check_merged(strategies: Sequence[LoadingStrategy]) -> None:
    if any(strategy.takes_training_state for strategy in strategies):
        raise CheckpointConfigError(f"stages: {NO_TRAINING}")
    if any(strategy.ema for strategy in strategies):
        raise CheckpointConfigError(f"stages: {EMA_OF_EACH}")


def _rank(stage: PipelineStage) -> int:
    """The place of a stage's family in the order of work."""
    if isinstance(stage, CheckpointSource):
        return 0
    if isinstance(stage, LoadingStrategy):
        return 2
    return 3 if isinstance(stage, ModelModifier) else 1
