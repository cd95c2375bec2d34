"""Load what fits of a checkpoint that was made for another model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from preheat.context import CheckpointContext
from preheat.strategies.mapped import ResizingStrategy


@dataclass(frozen=True)
class TransferLearningLoader(ResizingStrategy):
    """Load every weight whose name and shape fit and report the others. Nothing that fits is an error."""

    example: ClassVar[str] = r"transferLearning: {skipMismatched: true, overlap: ['^embedding\.weight$']}"

    strict: bool = False
    """Every name of the checkpoint must be in the model."""

    skip_mismatched: bool = True
    """Skip weights whose shape differs, with the reason in the report; false: such a weight is an error."""

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Fill the model; raises CheckpointIncompatibleError before the model is touched."""
        from preheat.strategies.loading import load_matching
        from preheat.strategies.matching import Tolerance

        tolerated = Tolerance(missing=True, unexpected=not self.strict, mismatched=self.skip_mismatched)
        return load_matching(context, "transfer_learning", tolerated, self)
