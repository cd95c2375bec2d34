"""Linear layers with weights of fewer bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError
from preheat.limits import Limit
from preheat.paths import Paths, SomePaths, listed
from preheat.stage import ModelModifier

Weights = Literal["int8", "int4", "float8"]


@dataclass(frozen=True)
class QuantizationModifier(ModelModifier):
    """Quantize the weights of frozen linear layers with torchao, which has to be in the training image."""

    example: ClassVar[str] = "quantize: {layers: [body], weights: int8, keep: [body.0]}"

    layers: SomePaths
    """Dotted paths of linear layers, or of submodules: all linear layers in them; `*` matches within one name."""

    weights: Weights = "int8"
    """What the weights become. int4 is for bfloat16 layers on a GPU. Activations keep their type."""

    group_size: Annotated[int, Limit(minimum=32, maximum=256)] | None = None
    """For int4: how many weights of a row share a scale: 32, 64, 128 or 256. Default: 128."""

    keep: Paths = ()
    """Dotted paths of layers among them that stay as they are, such as `blocks.0`."""

    def __post_init__(self) -> None:
        """Lists from YAML become tuples."""
        for name in ("layers", "keep"):
            object.__setattr__(self, name, listed(f"QuantizationModifier.{name}", getattr(self, name)))
        super().__post_init__()
        if self.weights not in get_args(Weights):
            raise CheckpointConfigError(
                f"QuantizationModifier.weights: {self.weights!r} is none of {', '.join(get_args(Weights))}"
            )
        if self.group_size is not None and (self.weights != "int4" or self.group_size not in (32, 64, 128, 256)):
            raise CheckpointConfigError("QuantizationModifier.group_size: for int4 give 32, 64, 128 or 256")

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Quantize; raises a CheckpointError for what torchao cannot, or what would be trained, beforehand."""
        from preheat.modifiers.quantizing import quantize

        return quantize(context, self)
