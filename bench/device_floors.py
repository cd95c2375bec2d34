"""What a machine gives, without any loader. Usage: device_floors.py FILE DEVICE; prints GB/s by name as JSON

How fast a file's bytes get into pinned memory by 4, 8 and 16 threads; how fast they get to the device from memory that
is not pinned; how fast memory of the device is allocated, how fast memory of the host is pinned, in two ways.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import perf_counter

import torch

CHUNK, MOST = 16 << 20, 4 << 30  # bytes
path, device = sys.argv[1], torch.device(sys.argv[2])
cuda = device.type == "cuda"
size = min(MOST, os.path.getsize(path)) // CHUNK * CHUNK or os.path.getsize(path)


def main() -> None:
    found = {f"read into pinned memory, {threads} threads": rate(lambda n=threads: read(n)) for threads in (4, 8, 16)}
    if cuda:
        plain, target = torch.ones(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8, device=device)
        found["copy from memory that is not pinned"] = rate(lambda: target.copy_(plain))
        found["host memory pinned by cudaHostRegister"] = rate(lambda: register(plain), 1)
        del plain, target
        torch.cuda.empty_cache()
        found["device memory allocated"] = rate(lambda: torch.empty(size, dtype=torch.uint8, device=device), 1)
        found["host memory pinned by cudaHostAlloc"] = rate(pin, 1)
    print(json.dumps(found))


def rate(work: Callable[[], object], repetitions: int = 5) -> float:
    """GB/s, the median."""
    times = []
    for _ in range(repetitions):
        started = perf_counter()
        kept = work()
        if cuda:
            torch.cuda.synchronize(device)
        times.append(perf_counter() - started)
        del kept
    return size / 1e9 / median(times)


def read(threads: int) -> None:
    """The file, each thread into one chunk of its own."""
    file = os.open(path, os.O_RDONLY)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda n: read_every(file, n, threads), range(threads)))
    os.close(file)


def read_every(file: int, first: int, step: int) -> None:
    view = memoryview(chunk(first).numpy())
    for start in range(first * CHUNK, size, step * CHUNK):
        os.preadv(file, [view], start)


chunks: dict[int, torch.Tensor] = {}


def chunk(number: int) -> torch.Tensor:
    """Pinned memory that is resident after its first use."""
    if number not in chunks:
        chunks[number] = torch.ones(CHUNK, dtype=torch.uint8, pin_memory=cuda)
    return chunks[number]


def pin() -> torch.Tensor:
    """As much memory as is copied, allocated and pinned."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def register(memory: torch.Tensor) -> None:
    """Pin what is allocated already; what it takes to unpin it is counted, too."""
    runtime = torch.cuda.cudart()
    runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)
    runtime.cudaHostUnregister(memory.data_ptr())


if __name__ == "__main__":
    main()
