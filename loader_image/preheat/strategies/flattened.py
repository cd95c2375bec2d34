"""Models that are wrapped in FullyShardedDataParallel: their parameters exist only while they are gathered.

So each process holds the whole model for as long as it is filled, and reads all of it; FSDP2 needs neither.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from preheat.context import CheckpointContext
from preheat.strategies.wrapping import plain


def is_flattened(model: torch.nn.Module) -> bool:
    """Whether some part of `model` is wrapped."""
    if not (fsdp := sys.modules.get("torch.distributed.fsdp")):  # a model can only be wrapped by what is imported
        return False
    return any(isinstance(module, fsdp.FullyShardedDataParallel) for module in model.modules())


@contextmanager
def gathered(context: CheckpointContext) -> Iterator[None]:
    """The parameters of the context's model are whole in this block; what is written to them is kept."""
    if not isinstance(context.model, torch.nn.Module) or not is_flattened(context.model):
        yield
        return
    with context.together("gather"):
        pass  # what follows waits for all processes without an end
    with sys.modules["torch.distributed.fsdp"].FullyShardedDataParallel.summon_full_params(context.model):
        yield


def gathered_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What `state_dict` would hand out copies of: parameters and persistent buffers."""
    state: dict[str, torch.Tensor] = {plain(n): p for n, p in model.named_parameters(remove_duplicate=False)}
    for path, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                state[plain(f"{path}.{name}" if path else name)] = buffer
    return state
