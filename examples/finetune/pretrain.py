"""Somebody's pretraining run: one AdamW step, then Lightning's own checkpoint. Usage: pretrain.py OUTPUT.ckpt"""

from __future__ import annotations

import sys

import torch
from model import CONTEXT, VOCABULARY, LanguageModel, trainer
from torch.utils.data import DataLoader, TensorDataset


def main() -> None:
    torch.manual_seed(7)
    data = DataLoader(TensorDataset(torch.randint(VOCABULARY, (4, CONTEXT))), batch_size=2)
    run, model = trainer(steps=1), LanguageModel()
    run.fit(model, data)
    run.save_checkpoint(sys.argv[1])
    parameters = sum(p.numel() for p in model.parameters())
    print(f"saved {sys.argv[1]}: {parameters / 1e6:.1f} M parameters, with the optimizer's state and hyper-parameters")


if __name__ == "__main__":
    main()
