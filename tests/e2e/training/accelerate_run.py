"""Three more steps with Accelerate from whatever the model holds; its weights are saved at the beginning."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", "0")))
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
torch.save({"state_dict": model.state_dict()}, Path(os.environ["OUTPUT"], "step=3.ckpt"))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
accelerator = Accelerator(cpu=True)
model, optimizer = accelerator.prepare(model, optimizer)
for step in range(4, 7):
    rows = torch.randn(8, 8, generator=torch.Generator().manual_seed(step))
    loss = model(rows).sub(rows.sum(1, keepdim=True)).square().mean()
    print("loss", step, loss.item().hex(), flush=True)
    optimizer.zero_grad()
    accelerator.backward(loss)
    optimizer.step()
