"""Weights that become zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError
from preheat.limits import Limit
from preheat.paths import SomePaths, listed
from preheat.stage import ModelModifier

Method = Literal["l1", "random", "structured"]


@dataclass(frozen=True)
class PruningModifier(ModelModifier):
    """Make a share of the weights of linear and convolution layers zero, with torch's own pruning."""

    example: ClassVar[str] = "prune: {layers: [body], amount: 0.3, method: structured}"

    once: ClassVar[bool] = True

    layers: SomePaths
    """Dotted paths of layers, or of submodules: all such layers in them; `*` matches within one name."""

    amount: Annotated[float, Limit(minimum=0.001, maximum=0.999)]
    """Share of each layer's weights that become zero, such as 0.3."""

    method: Method = "l1"
    """Which ones: the smallest (`l1`), any (`random`), or whole output channels of the smallest norm (`structured`)."""

    permanent: bool = False
    """Write the zeros into the weights, which may then learn anew; false: masks keep them zero as long as the model
    trains, and its `state_dict` has `weight_orig` and `weight_mask` in place of `weight`."""

    seed: Annotated[int, Limit(minimum=0, maximum=2**32 - 1)] = 0
    """For `random`: the same seed chooses the same weights, on every rank."""

    def __post_init__(self) -> None:
        """Lists from YAML become tuples."""
        object.__setattr__(self, "layers", listed("PruningModifier.layers", self.layers))
        super().__post_init__()
        if self.method not in get_args(Method):
            raise CheckpointConfigError(
                f"PruningModifier.method: {self.method!r} is none of {', '.join(get_args(Method))}"
            )

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Prune; raises NothingMatchedError, or CheckpointIncompatibleError for what cannot be pruned, beforehand."""
        from preheat.modifiers.pruning import prune

        return prune(context, self)
