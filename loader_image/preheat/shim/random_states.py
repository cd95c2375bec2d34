"""The state of random generators as Transformers' Trainer saves it, given back to Python's, numpy's and torch's."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch

from preheat.formats.training_state import opaque_in

_DEVICES = ("cuda", "npu", "hpu", "mlu", "musa")


def restore(saved: Mapping[str, Any]) -> list[str]:
    """Set the generators that `saved` has a state for, its tensors read; those that it does not fit are returned."""
    left = [name for name, state in saved.items() if not _set(name, state)]
    return [name for name in left if saved[name] is not None]


def _set(name: str, state: Any) -> bool:
    if any(opaque_in(state)):
        return False
    if name == "python":
        random.setstate(state)
    elif name == "numpy":
        import numpy

        kind, numbers, *rest = state
        numpy.random.set_state((kind, numpy.array(numbers, dtype=numpy.uint32), *rest))
    elif name == "cpu":
        torch.set_rng_state(state)
    elif name in _DEVICES:
        return _set_device(getattr(torch, name, None), state)
    else:
        return False
    return True


def _set_device(device: Any, state: Any) -> bool:
    """One state is that of the present device, a list has one for each device of the process."""
    if device is None or not device.is_available():
        return False
    if not isinstance(state, list):
        device.set_rng_state(state)
    elif len(state) == device.device_count():
        device.set_rng_state_all(state)
    else:
        return False
    return True
