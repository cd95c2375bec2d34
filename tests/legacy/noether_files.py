"""Files in Noether's layouts, small: what its checkpoint writer leaves of plain and composite models, old names too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

RUN = "2026-03-01_abcde"


def position(epoch: int, updates: int = 10, samples: int = 4) -> str:
    """The tag of a checkpoint after so many epochs."""
    return f"E{epoch}_U{epoch * updates}_S{epoch * updates * samples}"


def iteration(tag: str) -> dict[str, int]:
    """What the files say besides of where the training was."""
    epoch, update, sample = (
        (int(part[1:]) for part in tag.partition(".")[0].split("_")) if "_U" in tag else (7, 70, 280)
    )
    return {"epoch": epoch, "update": update, "sample": sample}


def save_weights(
    folder: Path, model: str, tag: str, state_dict: Mapping[str, Any], info: str = "", *, old: bool = False
) -> Path:
    """One model's weights; `old` is the order of names of version 1.0, which has the info last."""
    folder.mkdir(parents=True, exist_ok=True)
    behind = f"_{info}" if info else ""
    name = f"{model}_cp={tag}{behind}_model.th" if old else f"{model}{behind}_cp={tag}_model.th"
    content = {
        "state_dict": dict(state_dict),
        "checkpoint_tag": tag,
        "training_iteration": iteration(tag),
        "run_id": RUN,
        "model_config": {"name": model},
        "config_kind": "somewhere.ModelConfig",
    }
    torch.save(content, folder / name)
    return folder / name


def save_optimizer(folder: Path, model: str, tag: str, optimizer: torch.optim.Optimizer, names: list[str]) -> Path:
    """An optimizer, with the names of the parameters that Noether adds."""
    path = folder / f"{model}_cp={tag}_optim.th"
    torch.save({**optimizer.state_dict(), "param_idx_to_name": dict(enumerate(names))}, path)
    return path


def save_trainer(folder: Path, model: str, tag: str) -> Path:
    """The trainer: callbacks by key, where it was, and the scaler of gradients."""
    path = folder / f"{model}_cp={tag}_trainer.th"
    state = {
        "callback_state_dicts": {"ProgressCallback": {"seen": 3}},
        "training_iteration": iteration(tag),
        "grad_scaler": {"scale": 65536.0},
    }
    torch.save(state, path)
    return path


def trained(model: torch.nn.Module) -> torch.optim.AdamW:
    """An optimizer with a state for every parameter."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def save_all(folder: Path, model: str, tag: str, module: torch.nn.Module) -> torch.optim.AdamW:
    """Weights, optimizer and trainer of a plain model."""
    optimizer = trained(module)
    save_weights(folder, model, tag, module.state_dict())
    save_optimizer(folder, model, tag, optimizer, [name for name, _ in module.named_parameters()])
    save_trainer(folder, model, tag)
    return optimizer


def save_composite(folder: Path, model: str, tag: str, parts: Mapping[str, torch.nn.Module]) -> list[torch.optim.AdamW]:
    """A composite model: files of every part, and one trainer's."""
    optimizers = [trained(part) for part in parts.values()]
    for (name, part), optimizer in zip(parts.items(), optimizers, strict=True):
        save_weights(folder, f"{model}.{name}", tag, part.state_dict())
        save_optimizer(folder, f"{model}.{name}", tag, optimizer, [each for each, _ in part.named_parameters()])
    save_trainer(folder, model, tag)
    return optimizers
