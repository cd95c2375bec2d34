"""The tensors of a torch.nn.Module in one walk: what torch offers names them, which takes longer than all else.

Imports no torch: who asks may have a model that is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def tensors_within(model: Any) -> Iterator[Any]:
    """Parameters and buffers of a module and all below it, tied ones as often as they are held; of no module, none."""
    for module in _modules(model):
        yield from (tensor for tensor in module._parameters.values() if tensor is not None)
        yield from (tensor for tensor in module._buffers.values() if tensor is not None)


def parameters_within(model: Any) -> Iterator[Any]:
    """The parameters alone."""
    for module in _modules(model):
        yield from (tensor for tensor in module._parameters.values() if tensor is not None)


def _modules(model: Any) -> Iterator[Any]:
    seen: set[int] = set()
    waiting = [model] if hasattr(model, "_modules") else []
    while waiting:
        module = waiting.pop()
        if id(module) not in seen:
            seen.add(id(module))
            yield module
            waiting.extend(below for below in module._modules.values() if below is not None)
