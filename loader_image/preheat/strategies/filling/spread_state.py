"""An optimizer's state of parameters that are spread over processes: each reads its own part, as of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from preheat.bundle.training import TrainingState
from preheat.checks import Findings
from preheat.index import Tensor
from preheat.strategies.filling.checking import check_records
from preheat.strategies.filling.fill import fill
from preheat.strategies.filling.moves import Move, part_of
from preheat.strategies.filling.shards import target_of
from preheat.strategies.filling.tensors import DTYPES


def read_entry(entry: Mapping[str, Any], parameter: torch.Tensor, training: TrainingState) -> dict[str, Any]:
    """What has the parameter's shape becomes a tensor that is spread as it is; the rest is read as it was saved."""
    return {
        key: _read_part(value, parameter, training) if _is_like(value, parameter) else training.read(value)
        for key, value in entry.items()
    }


def _is_like(value: Any, parameter: torch.Tensor) -> bool:
    return parameter.dim() > 0 and tuple(getattr(value, "shape", ())) == tuple(parameter.shape)


def _read_part(value: Any, parameter: torch.Tensor, training: TrainingState) -> torch.Tensor:
    dtype = DTYPES[value.final_dtype] if isinstance(value, Tensor) else value.dtype
    with torch.no_grad():
        spread = torch.empty_like(parameter, dtype=dtype)
        target = target_of("state", spread)
        if not isinstance(value, Tensor):
            target.tensor.copy_(part_of(value, target.region))
        elif training.blob is not None:
            checks = training.checks()
            if checks.crc32:
                check_records(training.blob, [stored.record for stored in value.stored()], Findings(checks.warn_only))
            fill(training.blob, [Move(value, target.tensor, target.region)])
    return spread
