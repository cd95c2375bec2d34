"""Keep named parts of the model as the checkpoint left them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from preheat.context import CheckpointContext
from preheat.paths import SomePaths, listed
from preheat.stage import ModelModifier


@dataclass(frozen=True)
class FreezingModifier(ModelModifier):
    """Freeze parameters: they get no gradient and do not change."""

    example: ClassVar[str] = "freezing: {layers: [encoder, processor.0], evalNorms: true}"

    layers: SomePaths
    """Dotted paths of submodules or parameters, such as `encoder` or `processor.0`; `*` matches within one name."""

    strict: bool = True
    """A path that matches nothing is an error; false: it is only reported, unless none matches at all."""

    eval_mode: bool = False
    """Keep the frozen submodules in eval mode whenever they run, also after `model.train()`: no dropout, and running
    statistics of normalisation neither move nor follow the batch."""

    eval_norms: bool = False
    """The same for the normalisation layers in them alone: dropout still drops."""

    def __post_init__(self) -> None:
        """Lists from YAML become tuples."""
        object.__setattr__(self, "layers", listed("FreezingModifier.layers", self.layers))
        super().__post_init__()

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Freeze; raises NothingMatchedError naming the paths that match nothing."""
        from preheat.modifiers.freeze import freeze

        return freeze(context, self.layers, strict=self.strict, eval_mode=self.eval_mode, eval_norms=self.eval_norms)
