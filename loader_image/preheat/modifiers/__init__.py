"""What is changed once the weights are in: one file per modifier. torch is imported when one runs, not before."""

from preheat.modifiers.custom import CustomModifier
from preheat.modifiers.freezing import FreezingModifier
from preheat.modifiers.lora import LoRAModifier
from preheat.modifiers.precision import PrecisionModifier
from preheat.modifiers.prune import PruningModifier
from preheat.modifiers.quantize import QuantizationModifier
from preheat.modifiers.reset import ResetModifier
from preheat.stage import ModelModifier

MODIFIERS: dict[str, type[ModelModifier]] = {
    "custom": CustomModifier,
    "freezing": FreezingModifier,
    "lora": LoRAModifier,
    "precision": PrecisionModifier,
    "prune": PruningModifier,
    "quantize": QuantizationModifier,
    "reset": ResetModifier,
}
