"""Go on with a training where its checkpoint was saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError
from preheat.strategies.mapped import MappedStrategy


@dataclass(frozen=True)
class WarmStartLoader(MappedStrategy):
    """Load the weights by name and restore optimizer, scheduler and progress. A shape that differs is an error."""

    example: ClassVar[str] = "warmStart: {stripPrefix: [module.]}"

    takes_training_state: ClassVar[bool] = True

    strict: bool = True
    """Every parameter of the model must be in the checkpoint, and the other way round."""

    def __post_init__(self) -> None:
        """Refuse averages: the optimizer's state belongs to the raw weights."""
        super().__post_init__()
        if self.ema:
            raise CheckpointConfigError(
                "WarmStartLoader.ema: a training goes on from its raw weights, to which the optimizer's state belongs",
                remedy="Leave ema out, or begin from the averaged weights with coldStart",
            )

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Fill model, optimizer and scheduler; raises CheckpointIncompatibleError before any of them is touched."""
        from preheat.strategies.matching import Tolerance
        from preheat.strategies.resuming import resume

        tolerated = Tolerance(missing=not self.strict, unexpected=not self.strict, mismatched=False)
        return resume(context, tolerated, self)
