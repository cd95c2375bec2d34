"""Lightning's strategies by how they treat a model's parameters, told without importing Lightning."""

from __future__ import annotations

from typing import Any

from preheat.errors import CheckpointIncompatibleError

_SHARDED = "ModelParallelStrategy"


def is_sharded(strategy: Any) -> bool:
    """Whether parameters and optimizers stay torch's own, each parameter a DTensor: ModelParallelStrategy."""
    return any(kind.__name__ == _SHARDED for kind in type(strategy).__mro__)


def require_known(strategy: Any, doing: str, instead: str) -> None:
    """Raise CheckpointIncompatibleError where parameters or optimizers are made over into something of its own."""
    if is_sharded(strategy) or (strategy.lightning_restore_optimizer and not strategy.restore_checkpoint_after_setup):
        return
    raise CheckpointIncompatibleError(
        f"{type(strategy).__name__} makes parameters and optimizers over in its own way, so {doing} is not supported",
        remedy=f"Use ModelParallelStrategy, with fully_shard in configure_model, or {instead}",
    )
