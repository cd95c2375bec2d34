"""Writes checkpoints/small.ckpt: a small network with its optimizer, as a training script would save it."""

from pathlib import Path

import torch

model = torch.nn.Sequential(torch.nn.Linear(256, 1024), torch.nn.GELU(), torch.nn.Linear(1024, 10))
optimizer = torch.optim.AdamW(model.parameters())
model(torch.randn(8, 256)).square().mean().backward()
optimizer.step()

path = Path("checkpoints/small.ckpt")
path.parent.mkdir(exist_ok=True)
torch.save({"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()], "epoch": 3}, path)
print(f"{path}: {path.stat().st_size} bytes")
