"""A small training that is the same on every number of processes, and what is left of one; for processes and tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from preheat.errors import CheckpointError

ROWS = torch.randn(8, 4, generator=torch.Generator().manual_seed(3))

#: What a process says that has an optimizer of that kind.
NO_LUCK = "filling the model failed: RuntimeError: no luck; the model was touched: do not train with it"


class Net(torch.nn.Module):
    """Of lengths that two processes cannot share alike. All ranks see the same rows, so their mean is that of one."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = torch.nn.Linear(4, 33), torch.nn.Linear(33, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(rows).tanh()).sub(rows.sum(1, keepdim=True)).square().mean()


class Unlucky(torch.optim.AdamW):
    """Cannot take a state."""

    def load_state_dict(self, state_dict: Any) -> None:
        if state_dict["state"]:
            raise RuntimeError("no luck")
        super().load_state_dict(state_dict)


def optimizer_of(model: Any, kind: type[torch.optim.AdamW] = torch.optim.AdamW) -> torch.optim.Optimizer:
    """In another order than that of the model."""
    return kind([{"params": model.head.parameters()}, {"params": model.encoder.parameters()}], lr=0.03)


def scheduler_of(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6], 0.5)


def train(model: Any, optimizer: Any, scheduler: Any, steps: Iterable[int], backward: Any = None) -> list[float]:
    """The losses of these steps; four make an epoch."""
    losses = []
    for step in steps:
        loss = model(ROWS[step % 4 * 2 :][:2])
        backward(loss) if backward else loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        losses.append(loss.item())
    return losses


def whole(tree: Any) -> Any:
    """As JSON has it, the tensors of all ranks put together; all of them have to ask."""
    if isinstance(tree, torch.Tensor):
        return (tree.full_tensor() if hasattr(tree, "full_tensor") else tree).detach().double().tolist()
    if isinstance(tree, dict):
        return {str(key): whole(value) for key, value in tree.items()}
    return [whole(each) for each in tree] if isinstance(tree, (list, tuple)) else tree


def facts(*objects: Any) -> list[Any]:
    """What two trainings must have in common."""
    return [whole(each.state_dict()) for each in objects]


def refusal(call: Callable[[], Any]) -> str:
    """What it raises."""
    try:
        call()
    except CheckpointError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
