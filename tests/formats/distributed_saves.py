"""Saves sharded checkpoints as several ranks do, over gloo: `python distributed_saves.py FOLDER` with four of them.

Beside each folder `full.pt` holds its tensors as they were before they were sharded.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from forks import forked
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

RANKS = 4
VARIANTS = ("fsdp", "boxes", "app", "flat")


class Counting(torch.nn.Module):
    """Has what is neither parameter nor buffer in its state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(7, 5)
        self.register_buffer("seen", torch.arange(6).reshape(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 4}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


class App:
    """What torch's guide calls an application: model and optimizer in one object that saves itself."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self.tree = tree

    def state_dict(self) -> dict[str, Any]:
        return self.tree

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        self.tree = tree


def fsdp() -> dict[str, Any]:
    """A model whose lengths the ranks do not divide, one step of AdamW old."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(Counting(), torch.nn.Linear(5, 3, dtype=torch.float32), torch.nn.LayerNorm(3))
    fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(torch.ones(2, 7)).square().sum().backward()
    optimizer.step()
    weights, state = get_state_dict(model, optimizer)
    return {"model": weights, "optim": state, "epoch": 3}


def boxes() -> dict[str, Any]:
    """Rows, columns, both, uneven, none: every way in which a tensor may lie on a mesh."""
    torch.manual_seed(4)
    line, grid = init_device_mesh("cpu", (RANKS,)), init_device_mesh("cpu", (2, 2))
    weights = {
        "rows": distribute_tensor(torch.randn(10, 3), line, [Shard(0)]),
        "columns": distribute_tensor(torch.randn(3, 10), line, [Shard(1)]),
        "fewer.rows.than.ranks": distribute_tensor(torch.randn(3, 2), line, [Shard(0)]),
        "grid": distribute_tensor(torch.randn(7, 9), grid, [Shard(0), Shard(1)]),
        "cube": distribute_tensor(torch.randn(5, 6, 7).bfloat16(), grid, [Shard(2), Shard(0)]),
        "half.replicated": distribute_tensor(torch.randn(6, 4), grid, [Replicate(), Shard(1)]),
        "replicated": distribute_tensor(torch.randn(2, 2), line, [Replicate()]),
        "plain": torch.arange(5),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "transposed": torch.randn(4, 6).T,
        "view": torch.randn(8, 8)[2:4, 1:3],
    }
    return {"state_dict": weights, "options": {"names": ["a", "b"], "rate": 0.5}}


def app() -> dict[str, Any]:
    return {"app": App(fsdp())}


def flat() -> dict[str, Any]:
    """As torchtitan does: weights beside everything else."""
    tree = fsdp()
    return {**tree["model"], "optimizer": tree["optim"], "train_state": {"step": 7}}


def full(tree: Any) -> Any:
    """The tree with whole tensors; every rank must ask for them."""
    if isinstance(tree, App):
        return full(tree.tree)
    if isinstance(tree, dict):
        return {key: full(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [full(value) for value in tree]
    return tree.full_tensor() if isinstance(tree, DTensor) else tree


def save_all(folder: Path, rank: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    for variant in VARIANTS:
        tree = globals()[variant]()
        dcp.save(tree, checkpoint_id=str(folder / variant))
        whole = full(tree)
        if rank == 0:
            torch.save(whole, folder / f"{variant}.pt")
    dist.barrier()


if __name__ == "__main__":
    sys.exit(forked(RANKS, lambda rank: save_all(Path(sys.argv[1]), rank)))
