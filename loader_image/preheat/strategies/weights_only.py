"""Load the weights, leave optimizer and progress behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from preheat.context import CheckpointContext
from preheat.strategies.mapped import ResizingStrategy


@dataclass(frozen=True)
class WeightsOnlyLoader(ResizingStrategy):
    """Load the checkpoint's weights by name; optimizer and progress start fresh. A shape that differs is an error."""

    example: ClassVar[str] = r"weightsOnly: {strict: false, keep: ['^head\.']}"

    strict: bool = True
    """Every parameter of the model must be in the checkpoint, and the other way round."""

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Fill the model; raises CheckpointIncompatibleError before the model is touched."""
        from preheat.strategies.loading import load_matching
        from preheat.strategies.matching import Tolerance

        tolerated = Tolerance(missing=not self.strict, unexpected=not self.strict, mismatched=False)
        return load_matching(context, "weights_only", tolerated, self)
