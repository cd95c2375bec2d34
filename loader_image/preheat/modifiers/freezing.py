"""Keep named parts of the model as the checkpoint left them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError
from preheat.stage import Limit, ModelModifier


@dataclass(frozen=True)
class FreezingModifier(ModelModifier):
    """Freeze parameters: they get no gradient and do not change."""

    layers: Annotated[tuple[str, ...], Limit(min_length=1, max_length=256, items=Limit(min_length=1, max_length=512))]
    """Dotted paths of submodules or parameters, such as `encoder` or `processor.0`; `*` matches within one name."""

    strict: bool = True
    """A path that matches nothing is an error; false: it is only reported, unless none matches at all."""

    def __post_init__(self) -> None:
        """A single string would freeze by its letters; lists from YAML become tuples."""
        if isinstance(self.layers, str):
            raise CheckpointConfigError(f"FreezingModifier.layers: give a list, such as [{self.layers}]")
        object.__setattr__(self, "layers", tuple(self.layers))
        super().__post_init__()

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Freeze; raises NothingMatchedError naming the paths that match nothing."""
        from preheat.modifiers.freeze import freeze

        return freeze(context, self.layers, strict=self.strict)
