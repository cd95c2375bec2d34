"""A training in plain torch that depends on everything that a checkpoint has to bring back: it is small, and exact."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy
import torch

import preheat

PER_EPOCH = 4


class Loop:
    """Draws from every generator in each step; epochs have an order of their own, of which a step knows its place."""

    def __init__(self, seed: int = 0, width: int = 16) -> None:
        torch.manual_seed(seed)
        random.seed(seed)
        numpy.random.seed(seed)
        layers = (
            torch.nn.Linear(8, width),
            torch.nn.BatchNorm1d(width),
            torch.nn.Dropout(0.3),
            torch.nn.Linear(width, 1),
        )
        self.model = torch.nn.Sequential(*layers)
        groups = [{"params": self.model[0].parameters(), "lr": 1e-2}, {"params": self.model[3].parameters()}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [3, 6])
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=3)
        self.update = 0
        self.losses: list[float] = []

    @property
    def objects(self) -> tuple[Any, Any, Any]:
        return self.model, self.optimizer, self.scheduler

    def step(self) -> float:
        epoch, place = divmod(self.update, PER_EPOCH)
        order = torch.randperm(PER_EPOCH * 4, generator=torch.Generator().manual_seed(epoch))
        rows = torch.randn(PER_EPOCH * 4, 8, generator=torch.Generator().manual_seed(3))[order[place * 4 :][:4]]
        noise = random.random() + numpy.random.rand()
        loss = (self.model(rows) - rows.sum(1, keepdim=True) - noise).square().mean()
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.update += 1
        self.losses.append(loss.item())
        return self.losses[-1]

    def run(self, updates: int) -> Loop:
        while self.update < updates:
            self.step()
        return self

    def save(self, root: Path, **settings: Any) -> Path:
        at = {"epoch": self.update // PER_EPOCH, "update": self.update, "sample": self.update * 4}
        return preheat.save(
            root, *self.objects, **{"scaler": self.scaler, **at, "extra": {"losses": self.losses}, **settings}
        )

    def resume(self, checkpoint: Path) -> Any:
        stages = [{"local": {"path": str(checkpoint)}}, {"warmStart": {}}]
        report = preheat.apply(*self.objects, stages, scaler=self.scaler)
        self.update = report.state["global_step"]
        self.losses = list(report.state["extra"]["losses"])
        return report

    def facts(self) -> dict[str, Any]:
        """What two trainings must have in common."""
        generators = random.getstate(), torch.get_rng_state(), numpy.random.get_state()[1]
        objects = self.model.state_dict(), self.optimizer.state_dict(), self.scheduler.state_dict()
        return {"losses": self.losses, "objects": objects, "scaler": self.scaler.state_dict(), "random": generators}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, numpy.ndarray):
        return numpy.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def pointed(home: Path, tag: str, model: str = "model") -> Path:
    return home / json.loads((home / f"{model}_cp={tag}.json").read_text())["checkpoint"]
