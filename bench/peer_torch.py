"""What people do today: torch.load, then safetensors. Usage: peer_torch.py CHECKPOINT OUTPUT [mmap]"""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save_file

checkpoint = torch.load(sys.argv[1], map_location="cpu", weights_only=True, mmap="mmap" in sys.argv[3:])
save_file(checkpoint["state_dict"], sys.argv[2])
