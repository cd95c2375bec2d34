"""Small trainings with Transformers' Trainer and with Accelerate, for scripts of a pod and for this process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest

from preheat.shim import apply

TRAINER = """
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

def build(layers=1):
    torch.manual_seed(5)
    return BertForSequenceClassification(BertConfig(vocab_size=16, hidden_size=4, num_hidden_layers=layers,
        num_attention_heads=1, intermediate_size=4, max_position_embeddings=8, hidden_dropout_prob=0.3))

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 12
    def __getitem__(self, i):
        return {"input_ids": torch.tensor([i, i // 2, 3]), "labels": torch.tensor(i % 2)}

def arguments(folder="out", **settings):
    return TrainingArguments(str(folder), **{**dict(num_train_epochs=2, per_device_train_batch_size=2, use_cpu=True,
        report_to=[], save_strategy="no", logging_steps=1, learning_rate=0.01, disable_tqdm=True), **settings})

class Watching(Trainer):
    'Overrides what others override, and keeps the weights from which it trains.'
    first = None
    def train(self, *args, **kwargs):
        return super().train(*args, **kwargs)
    def create_optimizer(self, *args, **kwargs):
        self.first = {n: v.detach().clone() for n, v in self.model.state_dict().items()}
        return super().create_optimizer(*args, **kwargs)

def losses(trainer):
    return [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
"""

ACCELERATE = """
import torch
from accelerate import Accelerator

def build(seed=5, width=8):
    torch.manual_seed(seed)
    return torch.nn.ModuleDict({"encoder": torch.nn.Linear(4, width), "head": torch.nn.Linear(width, 1)})

def optimizer_of(model):
    return torch.optim.AdamW(model.parameters(), lr=0.05)

def scheduler_of(optimizer):
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5], 0.5)

rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(3))

def train(accelerator, model, optimizer, scheduler=None, steps=range(6)):
    losses = []
    for step in steps:
        part = getattr(model, "module", model)
        loss = part["head"](part["encoder"](rows[step % 8:][:2]).tanh()).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if scheduler:
            scheduler.step()
        losses.append(loss.item())
    return losses
"""


def defined_by(script: str) -> SimpleNamespace:
    """What a script defines; what the libraries that it imports warn of is theirs."""
    names: dict[str, object] = {"__name__": "training"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(script, names)
    return SimpleNamespace(**names)


@contextmanager
def hooked(shim: ModuleType, kind: type, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`kind` as it is in a process with the shim, which has applied nothing yet."""
    before = dict(vars(kind))
    monkeypatch.setattr(apply, "_history", [])
    shim.install()
    try:
        yield
    finally:
        for name in {name for name, value in vars(kind).items() if before.get(name) is not value}:
            setattr(kind, name, before[name])
