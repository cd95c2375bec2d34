"""Writes DeepSpeed's checkpoint folders as DeepSpeed 0.19 does, from whole tensors; DeepSpeed itself is not needed.

The layout was compared with folders that DeepSpeed wrote, by two, three and four ranks.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]


class ZeroStageEnum(enum.IntEnum):
    """Pickled as a class of DeepSpeed's would be, not as a number."""

    optimizer_states = 1
    gradients = 2
    weights = 3


def save(
    folder: Path,
    stage: int,
    groups: list[Tensors],
    *,
    ranks: int,
    buffers: Tensors | None = None,
    frozen: Tensors | None = None,
    tied: dict[str, str] | None = None,
    sub_groups: int = 1,
    prefix: str = "bf16_",
    tag: str = "global_step5",
    **extra: Any,
) -> Path:
    """A folder with `groups` of trained fp32 weights; the module has them in bf16."""
    (folder / tag).mkdir(parents=True)
    (folder / "latest").write_text(tag)
    trained = {name: tensor for group in groups for name, tensor in group.items()}
    tied, frozen = tied or {}, frozen or {}
    half = {name: tensor.bfloat16() for name, tensor in {**trained, **frozen}.items()}
    half |= {name: half[source] for name, source in tied.items()}
    if stage == 3:
        half = {name: torch.empty(0, dtype=torch.bfloat16) for name in half}
    model = {
        "module": OrderedDict((buffers or {}) | half),
        "buffer_names": list(buffers or {}),
        "optimizer": None,
        "param_shapes": [OrderedDict((name, tensor.shape) for name, tensor in group.items()) for group in groups],
        "frozen_param_shapes": {name: tensor.shape for name, tensor in frozen.items()} if stage > 1 else None,
        "shared_params": tied,
        "lr_scheduler": None,
        "global_steps": 5,
        "dp_world_size": ranks,
        "mp_world_size": 1,
        "ds_version": "0.19.8",
        **extra,
    }
    for rank in range(ranks):
        optimizer = _stage3(groups, rank, ranks, sub_groups) if stage == 3 else _stage12(groups, rank, ranks)
        state = {"zero_stage": ZeroStageEnum(stage), **optimizer, "loss_scaler": torch.nn.Identity()}
        torch.save(
            {"optimizer_state_dict": state, "ds_config": {}, "ds_version": "0.19.8"},
            folder / tag / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
        )
        name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"
        if stage == 3 or rank == 0:
            torch.save({**model, "frozen_param_fragments": _fragments(stage, frozen, rank, ranks)}, folder / tag / name)
    return folder


def _stage12(groups: list[Tensors], rank: int, ranks: int) -> dict[str, Any]:
    """A group in a row, filled up to a multiple of twice the ranks; the last rank saves no weights that fill it up."""
    pieces, filled, paddings = [], [], []
    for group in groups:
        row = torch.cat([tensor.reshape(-1) for tensor in group.values()])
        length = 2 * ranks * math.ceil(len(row) / (2 * ranks)) // ranks
        pieces.append(row[rank * length : (rank + 1) * length].clone())
        padding = length * ranks - len(row)
        filled.append(torch.nn.functional.pad(row, (0, padding))[rank * length : (rank + 1) * length])
        paddings.append(padding if rank == ranks - 1 else 0)
    return {
        "single_partition_of_fp32_groups": pieces,
        "base_optimizer_state": _moments(filled),
        "group_paddings": paddings,
        "param_alignment_paddings": [[0] * len(group) for group in groups],
        "partition_count": [ranks] * len(groups),
    }


def _stage3(groups: list[Tensors], rank: int, ranks: int, sub_groups: int) -> dict[str, Any]:
    """Every weight filled up to a multiple of the ranks and cut; the pieces of a group are in a row, or in several."""
    rows = [torch.cat([_share(tensor, rank, ranks) for tensor in group.values()]) for group in groups]
    return {
        "fp32_flat_groups": [piece.clone() for row in rows for piece in row.chunk(sub_groups)],
        "optimizer_state_dict": _moments(rows),
        "partition_count": ranks,
    }


def _moments(rows: list[torch.Tensor]) -> dict[str, Any]:
    """Moments that tell which weights they belong to: twice the weight, and its square."""
    states = {
        number: {"step": torch.tensor(2.0), "exp_avg": row * 2, "exp_avg_sq": row.square()}
        for number, row in enumerate(rows)
    }
    return {"state": states, "param_groups": [{"lr": 0.1 * (number + 1), "params": [number]} for number in states]}


def _share(tensor: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
    length = math.ceil(tensor.numel() / ranks)
    filled = torch.nn.functional.pad(tensor.reshape(-1), (0, length * ranks - tensor.numel()))
    return filled[rank * length : (rank + 1) * length].clone()


def _fragments(stage: int, frozen: Tensors, rank: int, ranks: int) -> Tensors | None:
    if stage == 1:
        return None
    half = {name: tensor.bfloat16() for name, tensor in frozen.items()}
    return {name: _share(tensor, rank, ranks) for name, tensor in half.items()} if stage == 3 else half
