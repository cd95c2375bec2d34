"""Saves a model of 2 GiB in turns by each way, and prints the seconds of all as JSON.

Usage: saving_worker.py FOLDER TIMES. Every way ends with the bytes on the disk: what does not sync by itself is synced.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

import preheat

LAYERS, WIDTH = 32, 4096  # 64 MiB each
PIECE = 8 << 20


def model() -> torch.nn.Module:
    """Layers of float32, written once so that their memory is there."""
    torch.manual_seed(0)
    return torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))


def synced(write: Callable[[Path], None], folder: Path) -> None:
    """Write a file by other means, and have it on the disk."""
    write(folder / "file")
    with open(folder / "file", "rb") as file:
        os.fsync(file.fileno())


def raw(path: Path, size: int, flags: int = 0) -> None:
    """The same bytes from one buffer, without a look: what the disk takes."""
    buffer = mmap.mmap(-1, PIECE)  # begins where a page does, as direct writes want it
    buffer.write(os.urandom(PIECE))
    file = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o666)
    os.posix_fallocate(file, 0, size)
    for at in range(0, size, PIECE):
        os.pwrite(file, buffer, at)
    os.fsync(file)
    os.close(file)


def main(folder: Path, times: int) -> None:
    """Take turns, so that a slow moment of the disk is shared; the first round only makes all memory resident."""
    net = model()
    state = net.state_dict()
    size = sum(value.nbytes for value in state.values())
    copies = {name: torch.empty_like(value) for name, value in state.items()}
    started: dict[str, float] = {}

    def beside() -> None:
        preheat.save(folder, net, update=1, wait=False)
        started["stall"] = time.perf_counter()
        preheat.flush()

    ways: dict[str, Callable[[], object]] = {
        "disk": lambda: raw(folder / "file", size),
        "disk, direct": lambda: raw(folder / "file", size, os.O_DIRECT),
        "preheat": lambda: preheat.save(folder, net, update=1),
        "torch.save": lambda: synced(lambda path: torch.save(state, path), folder),
        "save_file": lambda: synced(lambda path: save_file(state, path), folder),
        "copy": lambda: [copies[name].copy_(value) for name, value in state.items()],
        "beside": beside,
    }
    found: dict[str, list[float]] = {name: [] for name in (*ways, "stall")}
    for _ in range(times + 1):
        for name, way in ways.items():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            os.sync()
            began = time.perf_counter()
            way()
            found[name].append(time.perf_counter() - began)
            if name == "beside":
                found["stall"].append(started["stall"] - began)
    shutil.rmtree(folder)
    print(json.dumps({"bytes": size, **{name: seconds[1:] for name, seconds in found.items()}}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
