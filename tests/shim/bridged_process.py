"""One of two gloo processes that fill a sharded model from a checkpoint of other sizes; the first prints it."""

from __future__ import annotations

import json
import sys

import torch
import torch.distributed as dist
from forks import forked
from torch.distributed.fsdp import fully_shard

import preheat


class Net(torch.nn.Module):
    def __init__(self, words: int, positions: int) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(words, 6)
        self.columns = torch.nn.Linear(words, 6, bias=False)
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, positions, 6))

    def reset_parameters(self) -> None:
        torch.nn.init.zeros_(self.pos_embed)


def main(folder: str, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    with torch.device("meta"):
        model = fully_shard(Net(11, 26))
    report = preheat.apply(model)
    state = {name: tensor.full_tensor().tolist() for name, tensor in model.state_dict().items()}
    dist.destroy_process_group()
    if rank == 0:
        print(json.dumps({"state": state, "resized": dict(report.resized), "notes": report.notes}))


if __name__ == "__main__":
    sys.exit(forked(2, lambda rank: main(sys.argv[1], rank)))
