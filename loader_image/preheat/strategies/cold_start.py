"""Begin a new training from pretrained weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from preheat.context import CheckpointContext
from preheat.paths import Paths, listed
from preheat.strategies.mapped import ResizingStrategy


@dataclass(frozen=True)
class ColdStartLoader(ResizingStrategy):
    """Load the weights by name, except those of `reset_layers`; optimizer, epoch and step start at zero."""

    example: ClassVar[str] = 'coldStart: {resetLayers: [classifier, "blocks.*.head"]}'

    strict: bool = True
    """Outside of `reset_layers` every parameter of the model must be in the checkpoint, and the other way round."""

    reset_layers: Paths = ()
    """Dotted paths of layers that keep their initial values, such as `classifier`; `*` matches within one name."""

    def __post_init__(self) -> None:
        """Lists from YAML become tuples."""
        object.__setattr__(self, "reset_layers", listed("ColdStartLoader.reset_layers", self.reset_layers))
        super().__post_init__()

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Fill the model; raises CheckpointIncompatibleError before the model is touched."""
        from preheat.strategies.loading import load_matching, origin
        from preheat.strategies.matching import Tolerance

        tolerated = Tolerance(missing=not self.strict, unexpected=not self.strict, mismatched=False)
        context = load_matching(context, "cold_start", tolerated, self, self.reset_layers)
        context.update_metadata(epoch=0, global_step=0, pretrained_from=origin(context))
        return context
