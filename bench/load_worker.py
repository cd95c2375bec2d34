"""One process that fills one model again and again. Usage: load_worker.py BUNDLE PICKLED [DEVICE]

Reads a line of `load CONTENDER` or `check CONTENDER` from its standard input and answers with a line of JSON: seconds,
the processor's seconds, MiB that it took more than before at its peak; or what went wrong. `check` compares every value
and watches the device's memory, so its seconds mean nothing.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from time import perf_counter, process_time
from typing import Any

import torch
from load_contenders import CONTENDERS, Job, own_format, pickled
from load_names import COPY, PINNED_COPY, TENSORIZER, TORCH

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}
WORDS = {4: torch.int32, 2: torch.int16}  # by the size of an element


def main() -> None:
    bundle, pickle, *device = sys.argv[1:]
    weights = Path(bundle) / "model.safetensors"
    job = Job(Path(bundle), Path(pickle), build(weights, torch.device(*(device or ["cpu"]))))
    print("{}", flush=True)  # ready
    for line in sys.stdin:
        verb, _, name = line.strip().partition(" ")
        try:
            answer = check(job, name) if verb == "check" else load(job, name)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        print(json.dumps(answer), flush=True)


def load(job: Job, name: str) -> dict[str, Any]:
    """One load."""
    prepare(job, name)
    synchronize(job.device)
    with torch.no_grad():
        before = reset_peak(job.device)
        started, used = perf_counter(), process_time()
        more = CONTENDERS[name](job) or {}
        synchronize(job.device)
        answer = {"seconds": perf_counter() - started, "processor": process_time() - used}
    return {**answer, "extra": peak() - before, "pinned": pinned(job.device), **more}


def check(job: Job, name: str) -> dict[str, Any]:
    """One load, into parameters that are zero before; raises ValueError when they hold other values than the file's."""
    with torch.no_grad():
        for target in job.targets.values():
            target.zero_()
        with watched(job.device) as lowest:
            before = free(job.device)
            answer = load(job, name)
        answer["device"] = before - min([before, *lowest])
        if name not in (COPY, PINNED_COPY):
            wrong = [n for n, total in sums(job.weights) if total != sum_of(job.targets[n])]
            if wrong:
                raise ValueError(f"{len(wrong)} tensors have other values than the file, {wrong[0]} is one")
    return answer


def prepare(job: Job, name: str) -> None:
    """What is made once, and not measured."""
    if name == COPY:
        job.copies  # noqa: B018
    if name == PINNED_COPY:
        job.chunk  # noqa: B018
    if name == TENSORIZER:
        own_format(job)
    if name == TORCH:
        pickled(job)


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
    """What a safetensors file declares; `at` is where a tensor begins in the file."""
    with weights.open("rb") as file:
        [length] = struct.unpack("<Q", file.read(8))
        found: dict[str, Any] = json.loads(file.read(length))
    found.pop("__metadata__", None)
    return {name: entry | {"at": 8 + length + entry["data_offsets"][0]} for name, entry in found.items()}


def sums(weights: Path) -> Iterator[tuple[str, int]]:
    """Each tensor's name and checksum, as the file has it."""
    with weights.open("rb") as file:
        for name, entry in header(weights).items():
            file.seek(entry["at"])
            start, stop = entry["data_offsets"]
            yield name, sum_of(torch.frombuffer(bytearray(file.read(stop - start)), dtype=DTYPES[entry["dtype"]]))


def sum_of(tensor: torch.Tensor) -> int:
    """A checksum that feels bits and their places: of the words, of every other one too."""
    words = tensor.reshape(-1).view(WORDS[tensor.itemsize])
    return int(words.sum(dtype=torch.int64)) * 3 + int(words[::2].sum(dtype=torch.int64))


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


@contextmanager
def watched(device: torch.device) -> Iterator[list[float]]:
    """MiB that are free on the device, every few milliseconds: not all libraries take them through torch."""
    found: list[float] = []
    ended = Event()

    def watch() -> None:
        while not ended.wait(0.003):
            found.append(free(device))

    watcher = Thread(target=watch, daemon=True)
    if device.type == "cuda":
        watcher.start()
    try:
        yield found
    finally:
        ended.set()
        if device.type == "cuda":
            watcher.join()


def free(device: torch.device) -> float:
    """MiB that are free on the device; 0 for the CPU."""
    return torch.cuda.mem_get_info(device)[0] / 2**20 if device.type == "cuda" else 0.0


def pinned(device: torch.device) -> float:
    """MiB that torch has pinned on the host, at most so far; others' are not known."""
    if device.type != "cuda":
        return 0.0
    return float(torch.cuda.host_memory_stats().get("allocated_bytes.peak", 0)) / 2**20


def reset_peak(device: torch.device) -> float:
    """MiB that are resident; the peaks begin anew."""
    with suppress(OSError):  # then the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5")
    if device.type == "cuda":
        torch.cuda.reset_peak_host_memory_stats()
    return _status("VmRSS")


def peak() -> float:
    """MiB that were resident at once, files that were mapped included."""
    return _status("VmHWM")


def _status(name: str) -> float:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
