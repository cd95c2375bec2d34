"""Six steps with torch alone; a checkpoint after three. With a bundle, one call goes on from there."""

import os
from pathlib import Path

import torch

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", "0")))
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.BatchNorm1d(32), torch.nn.Linear(32, 1))
optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.05)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
done = 0
if "PREHEAT_BUNDLE" in os.environ:
    import preheat

    done = preheat.apply(model, optimizer=optimizer, scheduler=scheduler).state["step"]
for step in range(done + 1, 7):
    rows = torch.randn(8, 8, generator=torch.Generator().manual_seed(step))
    loss = model(rows).sub(rows.sum(1, keepdim=True)).square().mean()
    print("loss", step, loss.item().hex(), flush=True)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    if step == 3:
        state = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "step": step}
        torch.save({"model": model.state_dict(), **state}, Path(os.environ["OUTPUT"], "step=3.ckpt"))
