"""What is changed once the weights are in: one file per modifier. torch is imported when one runs, not before."""

from preheat.modifiers.custom import CustomModifier
from preheat.modifiers.freezing import FreezingModifier

MODIFIERS = {
    "custom": CustomModifier,
    "freezing": FreezingModifier,
}
