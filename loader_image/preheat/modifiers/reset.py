"""Give named layers fresh values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from preheat.context import CheckpointContext
from preheat.paths import SomePaths, listed
from preheat.stage import ModelModifier


@dataclass(frozen=True)
class ResetModifier(ModelModifier):
    """Re-initialise layers after the weights are in, each by its own `reset_parameters()`."""

    example: ClassVar[str] = "reset: {layers: [head]}"

    once: ClassVar[bool] = True

    layers: SomePaths
    """Dotted paths of submodules, such as `head` or `processor.3`; `*` matches within one name."""

    def __post_init__(self) -> None:
        """Lists from YAML become tuples."""
        object.__setattr__(self, "layers", listed("ResetModifier.layers", self.layers))
        super().__post_init__()

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Reset; raises NothingMatchedError, or CheckpointIncompatibleError for a layer that cannot, beforehand."""
        from preheat.modifiers.reinitialise import reinitialise

        return reinitialise(context, self.layers)
