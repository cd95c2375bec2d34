"""Files in Lightning's layout, small, and called as Anemoi calls them: what a Trainer saves to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def save_training(
    path: Path, module: torch.nn.Module, *, epoch: int = 3, step: int = 400, best: str = ""
) -> torch.optim.AdamW:
    """All that a Trainer saves: weights, optimizer, schedulers, loops, and what the module was made with.

    `best` is the path of the checkpoint with the least `val_loss` so far.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {"monitor": "val_loss", "best_model_path": best, "best_model_score": torch.tensor(0.25)}
    content: dict[str, Any] = {
        "pytorch-lightning_version": "2.6.0",
        "epoch": epoch,
        "global_step": step,
        "state_dict": module.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": kept} if best else {},
        "loops": {},
        "hyper_parameters": {"width": 4},
    }
    torch.save(content, path)
    return optimizer


def save_inference(path: Path, module: torch.nn.Module) -> None:
    """What Anemoi writes beside each: the model itself, pickled."""
    torch.save(module, path)
