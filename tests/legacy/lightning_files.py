"""Files in Lightning's layout, small, and called as Anemoi calls them: what a Trainer saves to go on."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

INDICES = "anemoi.models.data_indices.collection"


@contextmanager
def indices_of_a_dataset() -> Iterator[Any]:
    """An object of a class of Anemoi's, which is there while it is saved and at no other time."""
    kind = type("IndexCollection", (), {"__module__": INDICES})
    parts = INDICES.split(".")
    modules = {".".join(parts[: at + 1]): ModuleType(".".join(parts[: at + 1])) for at in range(len(parts))}
    modules[INDICES].__dict__["IndexCollection"] = kind
    found = kind()
    found.__dict__["name_to_index"] = {"2t": 0, "msl": 1}
    sys.modules.update(modules)
    try:
        yield found
    finally:
        for name in modules:
            del sys.modules[name]


def save_training(
    path: Path, module: torch.nn.Module, *, epoch: int = 3, step: int = 400, best: str = "", made_with: Any = None
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
        "hyper_parameters": made_with or {"width": 4},
    }
    torch.save(content, path)
    return optimizer


def save_inference(path: Path, module: torch.nn.Module) -> None:
    """What Anemoi writes beside each: the model itself, pickled, and metadata that are no part of it."""
    torch.save(module, path)
    with zipfile.ZipFile(path, "a") as archive:
        folder = f"{archive.namelist()[0].partition('/')[0]}/anemoi-metadata"
        archive.writestr(f"{folder}/ai-models.json", json.dumps({"version": "1.0", "supporting_arrays": {}}))
        archive.writestr(f"{folder}/latitudes.numpy", bytes(64))
