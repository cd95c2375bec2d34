"""Runs on a disk as `preheat.save` leaves them, and what may have become of their checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

import preheat
from preheat.loader import Settings, load
from preheat.prepare import Outcome

POD = "6f1c0f4e-0000-4000-8000-000000000001"


def training(seed: int = 0) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model and its optimizer."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1))
    return model, torch.optim.AdamW(model.named_parameters(), lr=0.1)


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()


def save_run(root: Path, epochs: int = 3, **more: Any) -> list[Path]:
    """Folders of a checkpoint after each epoch, one update each, in the run exp-7."""
    model, optimizer = training()
    folders = []
    for epoch in range(1, epochs + 1):
        step(model, optimizer)
        folders.append(preheat.save(root, model, optimizer, epoch=epoch, update=epoch, run_id="exp-7", **more))
    return folders


def damage(file: Path) -> None:
    """Change the last bit."""
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        last = opened.read(1)[0]
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([last ^ 1]))


def resume(root: Path, **settings: Any) -> dict[str, Any]:
    """What a pipeline says of the run exp-7."""
    return {"from": {"run": {"root": {"local": {"path": str(root)}}, "runId": "exp-7"}}, **settings}


def loaded(environment: dict[str, str]) -> Outcome:
    """What the loader of a pod does, in this process."""
    return load(Settings.read(environment))
