"""One rank that saves a model of 2 GiB, which FSDP2 spreads over several, in turns by each way. Run by torchrun.

Usage: sharded_rank.py FOLDER TIMES. The first rank prints the seconds from barrier to barrier as JSON; every way ends
with the bytes on the disk: what does not sync by itself is synced.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from saving_worker import model
from torch.distributed.fsdp import fully_shard

import preheat


def synced(save: Callable[[], object], folder: Path) -> None:
    """Save by other means, and have what this rank wrote on the disk."""
    save()
    dist.barrier()
    for path in sorted(folder.rglob("*"))[dist.get_rank() :: dist.get_world_size()]:
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def main(folder: Path, times: int) -> None:
    """Take turns, so that a slow moment of the disk is shared; the first round only makes all memory resident."""
    dist.init_process_group("gloo")
    net = model()
    for layer in net:
        fully_shard(layer)
    fully_shard(net)
    state = net.state_dict()
    writers = {
        "torch.distributed.checkpoint": lambda: dcp.FileSystemWriter(folder, sync_files=True),
        "its safetensors writer": lambda: dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True),
    }
    ways: dict[str, Callable[[], object]] = {
        "preheat": lambda: preheat.save(folder, net, update=1, sharded=True),
        "gathered": lambda: preheat.save(folder, net, update=1),
    }
    for name, make in writers.items():
        ways[name] = lambda make=make: synced(lambda: dcp.save(state, storage_writer=make()), folder)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(times + 1):
        for name, way in ways.items():
            if dist.get_rank() == 0:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                os.sync()
            dist.barrier()
            began = time.perf_counter()
            way()
            dist.barrier()
            found[name].append(time.perf_counter() - began)
    if dist.get_rank() == 0:
        shutil.rmtree(folder)
        print(json.dumps({name: seconds[1:] for name, seconds in found.items()}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
