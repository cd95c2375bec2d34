"""Files of many tensors, many files, and one of 100 GiB, all of zeros. Run as a program: scale_files.py FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path

FEW, MANY, SHARDS = 10_000, 100_000, 1000
FEW_TENSORS, MANY_TENSORS = f"{FEW}.safetensors", f"{MANY}.safetensors"
SPARSE, SHARDED = "sparse.safetensors", "sharded"
SMALL, SHARD, HUGE = 256, 1 << 16, 1 << 30  # bytes of a tensor


def make(folder: Path) -> None:
    """Make them anew: they take next to no room and time."""
    for name, count in ((FEW_TENSORS, FEW), (MANY_TENSORS, MANY)):
        write(folder / name, {f"layers.{n // 8:05}.part{n % 8}.weight": SMALL for n in range(count)})
    write(folder / SPARSE, {f"large.{n:03}": HUGE for n in range(100)} | {"last": SMALL})
    (folder / SHARDED).mkdir(exist_ok=True)
    shards = {f"layers.{n:04}.weight": f"model-{n + 1:05}-of-{SHARDS:05}.safetensors" for n in range(SHARDS)}
    for name, file in shards.items():
        write(folder / SHARDED / file, {name: SHARD})
    index = {"metadata": {"total_size": SHARDS * SHARD}, "weight_map": shards}
    (folder / SHARDED / "model.safetensors.index.json").write_text(json.dumps(index))


def write(path: Path, sizes: dict[str, int]) -> None:
    """A safetensors file whose tensors are holes."""
    entries, at = {}, 0
    for name, size in sizes.items():
        entries[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + at)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
