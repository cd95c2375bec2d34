"""One process that fills one model again and again. Usage: load_worker.py BUNDLE PICKLED [DEVICE]

Reads the name of a contender from each line of its standard input and answers with a line of JSON: seconds, the
processor's seconds, how much memory more than before it took at its peak, and what went wrong, if something did.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from load_contenders import CONTENDERS, Job, own_format
from load_names import COPY, PINNED_COPY, TENSORIZER

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}


def main() -> None:
    bundle, pickled, *device = sys.argv[1:]
    weights = Path(bundle) / "model.safetensors"
    model = build(weights, torch.device(*(device or ["cpu"])))
    job = Job(Path(bundle), Path(pickled), model)
    wanted = first_values(weights)
    print("{}", flush=True)  # ready
    for line in sys.stdin:
        print(json.dumps(run(job, line.strip(), wanted)), flush=True)


def run(job: Job, name: str, wanted: Mapping[str, float]) -> dict[str, Any]:
    """One load, checked afterwards."""
    contender, floor = CONTENDERS[name], name in (COPY, PINNED_COPY)
    with torch.no_grad():
        for target in job.targets.values():
            target.view(-1)[:1].fill_(0)
        prepare(job, name)
        synchronize(job.device)
        before, device_before = reset_peak(), device_memory(job.device)
        started, used = perf_counter(), process_time()
        try:
            more = contender(job) or {}
            synchronize(job.device)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        result = {"seconds": perf_counter() - started, "processor": process_time() - used, **more}
        result |= {"extra": peak() - before, "device_extra": device_peak(job.device) - device_before}
        wrong = [n for n, target in job.targets.items() if float(target.view(-1)[0]) != wanted[n]]
    return {"error": f"{len(wrong)} tensors have other values, {wrong[0]} is one"} if wrong and not floor else result


def prepare(job: Job, name: str) -> None:
    """What is made once, and not measured."""
    if name in (COPY, PINNED_COPY):
        job.copies  # noqa: B018
    if name == TENSORIZER:
        own_format(job)


class Node(torch.nn.Module):
    """A part of a model."""


def build(weights: Path, device: torch.device) -> torch.nn.Module:
    """A model whose parameters are those of a file, resident and zero."""
    root = Node()
    for name, entry in header(weights).items():
        *path, leaf = name.split(".")
        node: torch.nn.Module = root
        for part in path:
            if part not in node._modules:
                node.add_module(part, Node())
            node = node.get_submodule(part)
        values = torch.zeros(entry["shape"], dtype=DTYPES[entry["dtype"]], device=device).fill_(0)
        node.register_parameter(leaf, torch.nn.Parameter(values))
    return root


def header(weights: Path) -> dict[str, Any]:
    """What a safetensors file declares."""
    with weights.open("rb") as file:
        [length] = struct.unpack("<Q", file.read(8))
        found: dict[str, Any] = json.loads(file.read(length))
    found.pop("__metadata__", None)
    return {name: entry | {"at": 8 + length + entry["data_offsets"][0]} for name, entry in found.items()}


def first_values(weights: Path) -> dict[str, float]:
    """The first element of each tensor."""
    found = {}
    with weights.open("rb") as file:
        for name, entry in header(weights).items():
            file.seek(entry["at"])
            dtype = DTYPES[entry["dtype"]]
            found[name] = float(torch.frombuffer(bytearray(file.read(dtype.itemsize)), dtype=dtype)[0])
    return found


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak() -> float:
    """MiB that are resident; the peak begins anew."""
    with suppress(OSError):  # then the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> float:
    """MiB that were resident at once, files that were mapped included."""
    return _status("VmHWM")


def _status(name: str) -> float:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


def device_memory(device: torch.device) -> float:
    """MiB of the device that torch holds; its peak begins anew."""
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_reserved(device) / 2**20


def device_peak(device: torch.device) -> float:
    """MiB that torch held at once."""
    return torch.cuda.max_memory_reserved(device) / 2**20 if device.type == "cuda" else 0


if __name__ == "__main__":
    main()
