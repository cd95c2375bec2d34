"""Preheat gives a training pod its checkpoint before the training process starts."""

__version__ = "0.1.0"
