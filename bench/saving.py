"""Saving a model to a disk: beside what the disk takes, beside other savers, and how long a training stands still."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

from processes import measure
from results import Figure

HERE = Path(__file__).parent
OURS = "preheat"
RANKS = 2
#: What the ways of the worker are called in the table.
NAMES = {
    "disk": "the disk, through the page cache",
    "disk, direct": "the disk, past the page cache",
    "preheat": "Preheat",
    "torch.save": "torch.save",
    "save_file": "save_file of safetensors",
    "copy": "a copy of the tensors in memory",
    "beside": "Preheat beside the training, all of it",
    "stall": "Preheat beside the training, its stall",
}


def saving(folder: Path, repetitions: int) -> list[Figure]:
    """2 GiB of CPU tensors, to the disk that the cache is on."""
    printed = measure([sys.executable, HERE / "saving_worker.py", folder / "saving", repetitions]).output
    found = json.loads(printed)
    size = found.pop("bytes")
    middle = {name: median(times) for name, times in found.items()}
    floor = min(middle["disk"], middle["disk, direct"])
    against = f"{floor:.2f} s, the better of buffered and direct writes of one buffer"
    stalls = [stall - copy for stall, copy in zip(found["stall"], found["copy"], strict=True)]
    return [
        *(
            Figure(
                f"2 GiB saved, {NAMES[name]}",
                middle[name],
                f"s ({min(times):.2f}-{max(times):.2f} s)",
                _rate(size, middle[name]),
            )
            for name, times in found.items()
        ),
        Figure("2 GiB saved, Preheat beside the disk", floor / middle[OURS], "x its rate", against, ">= 0.9"),
        *(
            Figure(
                f"2 GiB saved, Preheat beside {name}",
                middle[name] / middle[OURS],
                "x faster",
                f"{middle[name]:.2f} s",
                "> 1",
            )
            for name in ("torch.save", "save_file")
        ),
        Figure("2 GiB saved, its stall beyond the copy", median(stalls), "s", _copy(middle), "<= 0.1"),
    ]


def sharded(folder: Path, repetitions: int) -> list[Figure]:
    """The same model, which two processes hold together by FSDP2."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    settings = {"OMP_NUM_THREADS": "1"}
    printed = measure([*torchrun, HERE / "sharded_rank.py", folder / "saving", repetitions], settings).output
    found = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    middle = {name: median(times) for name, times in found.items()}
    names = {"preheat": "Preheat, sharded", "gathered": "Preheat, gathered"}
    what = f"2 GiB saved, by {RANKS} ranks"
    ours = middle[OURS]
    return [
        *(
            Figure(f"{what}, {names.get(name, name)}", middle[name], f"s ({min(times):.2f}-{max(times):.2f} s)")
            for name, times in found.items()
        ),
        *(
            Figure(f"{what}, Preheat beside {name}", seconds / ours, "x faster", f"{seconds:.2f} s", "> 1")
            for name, seconds in middle.items()
            if name not in names
        ),
    ]


def _rate(size: int, seconds: float) -> str:
    return f"{size / 1e9 / seconds:.2f} GB/s"


def _copy(middle: dict[str, float]) -> str:
    return f"stall {middle['stall']:.2f} s, a copy of the tensors {middle['copy']:.2f} s"
