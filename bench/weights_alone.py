"""A checkpoint without its training state, as one would save it by hand. Usage: weights_alone.py CHECKPOINT OUTPUT"""

from __future__ import annotations

import sys

import torch

loaded = torch.load(sys.argv[1], map_location="cpu", weights_only=True, mmap=True)
torch.save({"state_dict": loaded["state_dict"]}, sys.argv[2])
