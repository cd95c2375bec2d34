"""Six steps with Accelerate, saved after three; with FIRST=4 the last three, from whatever `prepare` leaves behind."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", "0")))
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
accelerator = Accelerator(cpu=True)
model, optimizer = accelerator.prepare(model, optimizer)
for step in range(int(os.environ.get("FIRST", "1")), 7):
    rows = torch.randn(8, 8, generator=torch.Generator().manual_seed(step))
    loss = model(rows).sub(rows.sum(1, keepdim=True)).square().mean()
    print("loss", step, loss.item().hex(), flush=True)
    optimizer.zero_grad()
    accelerator.backward(loss)
    optimizer.step()
    if step == 3:
        accelerator.save_state(str(Path(os.environ["OUTPUT"], "state")))
