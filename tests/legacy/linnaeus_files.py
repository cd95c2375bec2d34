"""Files in linnaeus' layouts, small: what its model zoo holds, and what its trainer writes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

DIMS = (4, 6, 8, 8)  # of the stages; those of attention are alike, so that both may have one class token
DEPTHS = (2, 2)  # blocks of the first two stages
ROPE_DEPTHS = (10, 2)  # blocks of the last two
TOKENS = 2 * 3  # of a vector of frequencies


def convnext(path: Path, key: str = "model", prefix: str = "") -> dict[str, torch.Tensor]:
    """A ConvNeXt as its authors published it: `downsample_layers.0` is the stem, stages 2 and 3 are convolutions."""
    names: dict[str, tuple[int, ...]] = {
        **{"downsample_layers.0.0.weight": (DIMS[0], 3, 4, 4), "downsample_layers.0.1.weight": (DIMS[0],)},
        **{"norm.weight": (DIMS[3],), "head.weight": (10, DIMS[3]), "head.bias": (10,)},
    }
    for stage in (1, 2, 3):
        names[f"downsample_layers.{stage}.1.weight"] = (DIMS[stage], DIMS[stage - 1], 2, 2)
    for stage, dim in enumerate(DIMS):
        for block in range(2):
            names |= {f"stages.{stage}.{block}.gamma": (dim,), f"stages.{stage}.{block}.norm.weight": (dim,)}
            names[f"stages.{stage}.{block}.pwconv1.weight"] = (4 * dim, dim)
    return _saved(path, key, {prefix + name: torch.randn(shape) for name, shape in names.items()})


def ropevit(path: Path, key: str = "state_dict", prefix: str = "") -> dict[str, torch.Tensor]:
    """A RoPE-ViT of twelve blocks, with one class token and, for mixed frequencies, one tensor of them."""
    dim = DIMS[2]
    names: dict[str, tuple[int, ...]] = {
        **{"cls_token": (1, 1, dim), "pos_embed": (1, 4, dim), "freqs": (2, TOKENS)},
        **{"patch_embed.proj.weight": (dim, 3, 4, 4), "norm.weight": (dim,), "head.weight": (10, dim)},
    }
    for block in range(sum(ROPE_DEPTHS)):
        names |= {f"blocks.{block}.norm1.weight": (dim,), f"blocks.{block}.attn.qkv.weight": (3 * dim, dim)}
    return _saved(path, key, {prefix + name: torch.randn(shape) for name, shape in names.items()})


def metaformer(path: Path, window: int) -> dict[str, torch.Tensor]:
    """A MetaFormer with tables of relative positions for square windows, and classifiers of another data set."""
    positions = (2 * window - 1) ** 2
    weights = {
        "stage_3.0.attn.relative_position_bias_table": torch.randn(positions, 2),
        "stage_3.0.attn.relative_position_index": torch.zeros(window * window, window * window, dtype=torch.int64),
        "stage_3.0.norm1.weight": torch.randn(8),
        "norm_1.weight": torch.randn(8),
        "meta_1_head_1.0.weight": torch.randn(8, 4),
        "head.weight": torch.randn(10, 8),
        "head.bias": torch.randn(10),
    }
    return _saved(path, "model", weights)


class MFormerV1(torch.nn.Module):
    """The names and shapes of the model that linnaeus stitches; nobody runs it."""

    def __init__(self, *, mixed: bool = False) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(_weight(DIMS[0], 3, 4, 4), _weight(DIMS[0]))
        steps = pairwise(DIMS)
        self.downsample_layers = torch.nn.ModuleList(
            torch.nn.ModuleDict({"1": _weight(after, before, 2, 2)}) for before, after in steps
        )
        stages = [[_convolutions(dim) for _ in range(depth)] for dim, depth in zip(DIMS, DEPTHS, strict=False)]
        stages += [[_attention(mixed) for _ in range(depth)] for depth in ROPE_DEPTHS]
        self.stages = torch.nn.ModuleList(map(torch.nn.ModuleList, stages))
        self.norm_1, self.norm_2, self.final_norm = (_weight(DIMS[2]) for _ in range(3))
        self.cls_token_1, self.cls_token_2 = (torch.nn.Parameter(torch.zeros(1, 1, DIMS[2])) for _ in range(2))
        self.meta_lat_head_1 = _weight(DIMS[2], 2)
        self.head = torch.nn.ModuleDict({"taxa_L10": _weight(5, DIMS[3])})


class MFormerV0(torch.nn.Module):
    """The names and shapes of a MetaFormer for windows of another size."""

    def __init__(self, window: int) -> None:
        super().__init__()
        attention = torch.nn.Module()
        attention.relative_position_bias_table = torch.nn.Parameter(torch.zeros((2 * window - 1) ** 2, 2))
        attention.register_buffer("relative_position_index", torch.ones(window**2, window**2, dtype=torch.int64))
        block = torch.nn.ModuleDict({"attn": attention, "norm1": _weight(8)})
        self.stage_3 = torch.nn.ModuleList([block])
        self.norm_1 = _weight(8)
        self.head = torch.nn.ModuleDict({"taxa_L10": _weight(5, 8)})


class _Weight(torch.nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(shape))


def _weight(*shape: int) -> torch.nn.Module:
    return _Weight(shape)


def _convolutions(dim: int) -> torch.nn.Module:
    block = torch.nn.ModuleDict({"norm": _weight(dim), "pwconv1": _weight(4 * dim, dim)})
    block.gamma = torch.nn.Parameter(torch.zeros(dim))
    return block


def _attention(mixed: bool) -> torch.nn.Module:
    attention = torch.nn.ModuleDict({"qkv": _weight(3 * DIMS[2], DIMS[2])})
    if mixed:
        attention.freqs = torch.nn.Parameter(torch.zeros(2, TOKENS))
    return torch.nn.ModuleDict({"norm1": _weight(DIMS[2]), "attn": attention})


def _saved(path: Path, key: str, weights: dict[str, Any]) -> dict[str, Any]:
    torch.save({key: weights} if key else weights, path)
    return weights


class CfgNode(dict):  # type: ignore[type-arg]
    """What yacs pickles for a configuration: a dictionary of a class of its own."""


def trainer_file(
    path: Path, model: torch.nn.Module, optimizer: Any, scheduler: Any, epoch: int, scaler: Any = None
) -> Path:
    """`ckpt_epoch_N.pth`, as linnaeus' trainer writes it."""
    document = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "epoch": epoch,
        "config": CfgNode(MODEL=CfgNode(NAME="mFormerV1")),
        "iteration": 10 * epoch,
        "training_progress": {"current_epoch": epoch, "global_step": 10 * epoch, "current_stage": "train"},
        "amp": scaler.state_dict() if scaler else {},
        "metrics_tracker": {"best": {"val_loss": 0.5}},
        "wandb_run_id": "abc123",
    }
    torch.save(document, path)
    return path
