"""The state of Python's, numpy's and torch's random generators, as Transformers' Trainer spells it."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping
from typing import Any

import torch

from preheat.formats.training_state import opaque_in, spell_state, unspell_state
from preheat.ranks import group

_DEVICES = ("cuda", "npu", "hpu", "mlu", "musa")


def taken() -> dict[str, Any]:
    """Python's, numpy's if it is imported, torch's, and CUDA's: of all devices, or of this process's one in a group."""
    states: dict[str, Any] = {"python": random.getstate(), "cpu": torch.get_rng_state()}
    if numpy := sys.modules.get("numpy"):
        kind, numbers, *rest = numpy.random.get_state()
        states["numpy"] = (kind, numbers.tolist(), *rest)
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state() if group() else torch.cuda.get_rng_state_all()
    return states


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


def packed(states: dict[str, Any]) -> str:
    """The states as a text, to send to another process."""
    plain = {name: _bytes(state) for name, state in states.items()}
    return json.dumps(spell_state(plain).document)


def unpacked(text: str) -> dict[str, Any]:
    """What was packed."""
    states = unspell_state(json.loads(text), _no_tensors)
    return {name: _tensor(state) for name, state in states.items()}


def _bytes(state: Any) -> Any:
    if isinstance(state, list):
        return [_bytes(each) for each in state]
    return state.numpy().tobytes() if isinstance(state, torch.Tensor) else state


def _tensor(state: Any) -> Any:
    if isinstance(state, list):
        return [_tensor(each) for each in state]
    return torch.frombuffer(bytearray(state), dtype=torch.uint8) if isinstance(state, bytes) else state


def _no_tensors(name: str) -> Any:
    raise ValueError(f"there is no tensor {name}")
