"""What people do today with a folder: torch's converter, torch.load, safetensors. Usage: ... FOLDER SCRATCH OUTPUT"""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

folder, scratch, output = sys.argv[1:]
dcp_to_torch_save(folder, scratch)
save_file(torch.load(scratch, weights_only=True)["model"], output)
