"""One rank of a model that FSDP2 spreads over several, filled from a bundle. Run by torchrun: fsdp_rank.py BUNDLE"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from load_worker import build
from torch.distributed.fsdp import fully_shard

import preheat

os.environ["PREHEAT_BUNDLE"] = sys.argv[1]
torch.distributed.init_process_group("gloo")
model = build(Path(sys.argv[1]) / "model.safetensors", torch.device("meta"))
fully_shard(model)
report = preheat.apply(model, device="cpu")
print(json.dumps({"rank": report.rank, "read": report.read, "partial": report.partial}), flush=True)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
