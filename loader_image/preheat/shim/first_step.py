"""Watches every optimizer of this process for its first step; the hook is gone when a checkpoint is applied."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from preheat.errors import UnsupportedVersionError

_handles: list[Any] = []


def watch(refuse: Callable[..., None]) -> None:
    """Call `refuse` before every step from now on; a second call does nothing. torch is imported already.

    Raises UnsupportedVersionError for a torch whose optimizers cannot be watched.
    """
    try:
        from torch.optim.optimizer import register_optimizer_step_pre_hook
    except ImportError as error:
        version = getattr(sys.modules["torch"], "__version__", "of an unknown version")
        raise UnsupportedVersionError(
            f"torch {version} has no hook before the steps of all optimizers", remedy="Use torch 2.0 or newer"
        ) from error

    if not _handles:
        _handles.append(register_optimizer_step_pre_hook(refuse))


def release() -> None:
    """Stop watching: a checkpoint was applied, or the policy does without."""
    while _handles:
        _handles.pop().remove()
