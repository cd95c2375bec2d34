"""Which modules normalise: torch's own kinds, and the likes of `LlamaRMSNorm` that libraries bring along."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _NormBase

_KINDS = (_NormBase, torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.RMSNorm)


def is_norm(module: torch.nn.Module) -> bool:
    """A normalisation layer; a wrapper such as `PreNorm`, which holds other modules as well, is none."""
    if isinstance(module, _KINDS):
        return True
    name = type(module).__name__
    return "norm" in name.lower() and not name.startswith("_") and not any(True for _ in module.children())
