"""A training script up to its first step, with the demo's model. Usage: first_step.py preheat|load|mmap [CHECKPOINT]"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "finetune"))
from model import CONTEXT, VOCABULARY, LanguageModel

way, *checkpoint = sys.argv[1:]
torch.manual_seed(1)
model = LanguageModel()
if way == "preheat":
    import preheat

    preheat.apply(model)
else:
    loaded = torch.load(checkpoint[0], map_location="cpu", weights_only=True, mmap=way == "mmap")
    model.load_state_dict(loaded["state_dict"])
    del loaded
optimizer = model.configure_optimizers()
[peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(f"peak {int(peak.split()[1]) / 1024:.0f} MiB", flush=True)
loss = model.training_step([torch.randint(VOCABULARY, (2, CONTEXT))], 0)
loss.backward()
optimizer.step()
print(f"loss {loss.item():.4f}")
