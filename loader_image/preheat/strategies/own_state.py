"""What a training in plain torch gets back besides of its own checkpoints: gradient scaler and random generators.

Those that other libraries saved are left alone: their loops draw random numbers at other places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preheat.context import CheckpointContext
from preheat.errors import CheckpointIncompatibleError
from preheat.formats.trainer import RANDOM_STATES, SCALER
from preheat.shim.ranks import group
from preheat.strategies import random_states


def check(context: CheckpointContext, rest: Mapping[Any, Any]) -> None:
    """Raise CheckpointIncompatibleError for a scaler that would stay fresh."""
    if context.scaler is not None and not isinstance(rest.get(SCALER), Mapping):
        raise CheckpointIncompatibleError(
            "the checkpoint has no state for the scaler", remedy="Save it with preheat.save(..., scaler=scaler)"
        )


def restore(context: CheckpointContext, state: Mapping[Any, Any], *, own: bool) -> list[str]:
    """Give both back, and say what was; random states only of an `own` checkpoint, one of `preheat.save`."""
    restored = []
    if context.scaler is not None:
        context.scaler.load_state_dict(dict(state[SCALER]))
        restored.append(type(context.scaler).__name__)
    if own and (states := state.get(RANDOM_STATES)):
        restored.append(_restore_random(states))
    return restored


def _restore_random(states: Any) -> str:
    rank, world = (found.get_rank(), found.get_world_size()) if (found := group()) else (0, 1)
    if not isinstance(states, list) or len(states) != world:
        return f"no random states (of {len(states)} processes, now there are {world})"
    left = random_states.restore(states[rank])
    return f"random states (but {', '.join(left)})" if left else "random states"
