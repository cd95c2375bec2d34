"""Train a few weights beside each layer instead of the layer: LoRA, as peft makes, names and saves it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError
from preheat.limits import Limit
from preheat.paths import Paths, listed
from preheat.stage import Claim, ModelModifier


@dataclass(frozen=True)
class LoRAModifier(ModelModifier):
    """Put LoRA adapters into the model with peft, and load those that the checkpoint holds; all else is frozen."""

    example: ClassVar[str] = "lora: {rank: 16, alpha: 32, targets: [q_proj, v_proj], modulesToSave: [head]}"

    loads: ClassVar[bool] = True

    rank: Annotated[int | None, Limit(minimum=1)] = None
    """Width of each adapter; by default that of the checkpoint's, 8 for new ones."""

    alpha: Annotated[float | None, Limit(minimum=0)] = None
    """What an adapter adds to its layer is scaled by alpha / rank; by default as adapter_config.json says, for new ones
    not at all."""

    dropout: Annotated[float | None, Limit(minimum=0, maximum=1)] = None
    """Share of an adapter's inputs that is dropped in training; 0 for new ones."""

    targets: Paths = ()
    """Ends of dotted paths of layers, such as `q_proj` or `blocks.*.attention`, with `*` within one name; a module that
    holds layers stands for the linear ones in it; or `all-linear`. By default the checkpoint's, for new ones those that
    peft has for the model."""

    bias: Literal["none", "all", "lora_only"] | None = None
    """Whether biases are trained: none, all, or those of the adapted layers; none for new ones."""

    modules_to_save: Paths = ()
    """Ends of dotted paths of modules, such as a new `head`, that are trained whole; the adapter has its own copies."""

    merge: bool = False
    """Add the checkpoint's adapters to the weights of their layers; the model is left without adapters, trainable."""

    def __post_init__(self) -> None:
        """Lists from YAML become tuples."""
        object.__setattr__(self, "targets", listed("LoRAModifier.targets", self.targets))
        object.__setattr__(self, "modules_to_save", listed("LoRAModifier.modules_to_save", self.modules_to_save))
        super().__post_init__()

    def claim(self, context: CheckpointContext, checkpoint: Iterable[str], model: Iterable[str]) -> Claim:
        """The adapters of both sides; the base is matched under the names that the model has for it now."""
        from preheat.modifiers.adapters.names import paired, renamed

        theirs, own = paired(checkpoint, model)
        if not own.adapters and context.optimizer:  # one, or a list
            raise CheckpointConfigError(
                "lora puts parameters into the model that the optimizer, which is there already, would not train",
                remedy="Call preheat.apply(model) before the optimizer is built, or make the adapters before that",
            )
        return Claim(renamed(theirs, own), frozenset({*theirs.adapters.values(), *own.adapters.values()}))

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Adapt, and load; raises before adapters are put in, and takes them out again when those loaded do not fit."""
        from preheat.modifiers.adapters.adapting import adapt

        return adapt(context, self)
