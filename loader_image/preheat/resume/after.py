"""What runs of a pipeline when a training goes on from a checkpoint of its own run.

The source, the checks and the conversion are about the checkpoint that the training began with, and so is its strategy:
`resume` has a source and a strategy in their place. Modifiers say what the model is like and are needed again, but for
those whose work is in the weights by now.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from preheat.errors import CheckpointConfigError
from preheat.modifiers.prune import PruningModifier
from preheat.resume.settings import Resume
from preheat.sources.credentials import check_credentials
from preheat.stage import CheckpointSource, LoadingStrategy, ModelModifier
from preheat.strategies.warm_start import WarmStartLoader
from preheat.strategies.weights_only import WeightsOnlyLoader
from preheat.verify import Verify

if TYPE_CHECKING:
    from preheat.spec import PipelineSpec

MASKS = (
    "masks of prune give the saved weights other names than those of a new model: set permanent in prune, or go "
    "without resume"
)
STRATEGIES: dict[str, LoadingStrategy] = {"warmStart": WarmStartLoader(), "weightsOnly": WeightsOnlyLoader()}


def resuming(spec: PipelineSpec, resume: Resume, source: CheckpointSource) -> PipelineSpec:
    """The pipeline for a checkpoint of the run; raises CheckpointConfigError where none could ever be resumed."""
    modifiers = [stage for stage in spec.stages if isinstance(stage, ModelModifier)]
    if any(isinstance(stage, PruningModifier) and not stage.permanent for stage in modifiers):
        raise CheckpointConfigError(f"resume: {MASKS}")
    again = [stage for stage in modifiers if not stage.once]
    stages = (source, Verify(finite=finite(spec)), STRATEGIES[resume.strategy], *again)
    return replace(spec, stages=stages, resume=None)


def check(spec: PipelineSpec, resume: Resume) -> None:
    """Raise CheckpointConfigError where the pipeline cannot do both, resume and begin."""
    resuming(spec, resume, resume.from_)
    check_credentials([*spec.source.places, *resume.from_.places])


def left_out(spec: PipelineSpec) -> list[ModelModifier]:
    """The modifiers that do not run again."""
    return [stage for stage in spec.stages if isinstance(stage, ModelModifier) and stage.once]


def finite(spec: PipelineSpec) -> bool:
    """Whether a checkpoint with NaN or infinity among its weights is passed over: where the pipeline verifies that."""
    return any(isinstance(stage, Verify) and stage.finite for stage in spec.stages)
