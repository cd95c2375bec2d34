"""What a training in plain torch gets back besides: the gradient scaler, and of its own checkpoints random generators.

Random states that other libraries saved are left alone: their loops draw numbers at other places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preheat.context import CheckpointContext
from preheat.errors import CheckpointIncompatibleError
from preheat.formats.trainer import RANDOM_STATES, SCALER
from preheat.ranks import group
from preheat.strategies import random_states

#: What torch's scaler always saves; programs keep it under names of their own, such as linnaeus' `amp`.
_OF_A_SCALER = frozenset(("scale", "growth_factor", "backoff_factor", "growth_interval"))


def check(context: CheckpointContext, rest: Mapping[Any, Any]) -> None:
    """Raise CheckpointIncompatibleError for a scaler that would stay fresh."""
    if context.scaler is not None and _scaler_in(rest) is None:
        raise CheckpointIncompatibleError(
            "the checkpoint has no state for the scaler", remedy="Save it with preheat.save(..., scaler=scaler)"
        )


def restore(context: CheckpointContext, state: Mapping[Any, Any], *, own: bool) -> list[str]:
    """Give both back, and say what was; random states only of an `own` checkpoint, one of `preheat.save`."""
    restored = []
    key = _scaler_in(state)
    if context.scaler is not None:
        context.scaler.load_state_dict(dict(state[key]))
        restored.append(type(context.scaler).__name__)
    elif key is not None and state[key] and not context.restored_elsewhere:
        restored.append(f"no scaler (the checkpoint has {key!s:.80}, and none was given)")
    if own and (states := state.get(RANDOM_STATES)):
        restored.append(_restore_random(states))
    return restored


def _scaler_in(state: Mapping[Any, Any]) -> Any:
    """The key of the one scaler's state; None where there is none, or nobody can tell which."""
    if isinstance(state.get(SCALER), Mapping):
        return SCALER
    found = [key for key, each in state.items() if isinstance(each, Mapping) and each.keys() >= _OF_A_SCALER]
    return found[0] if len(found) == 1 else None


def _restore_random(states: Any) -> str:
    rank, world = (found.get_rank(), found.get_world_size()) if (found := group()) else (0, 1)
    if not isinstance(states, list) or len(states) != world:
        return f"no random states (of {len(states)} processes, now there are {world})"
    left = random_states.restore(states[rank])
    return f"random states (but {', '.join(left)})" if left else "random states"
