"""What grows with what: time and memory by number of tensors, by number of files, and by size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from loader import LoaderRuns
from processes import peak, seconds, spread
from results import Figure

FEW, MANY = 10_000, 100_000
TENSOR = 256  # bytes
SHARDS = 1000
SPARSE = 100 << 30


def scale(runs: LoaderRuns, folder: Path, repetitions: int) -> list[Figure]:
    """Ten times the tensors, a thousand files, and a file larger than any disk here: safetensors of our own header."""
    few, many = (_tensors(folder / f"{count}.safetensors", count) for count in (FEW, MANY))
    first, second = (_runs(runs, path, repetitions) for path in (few, many))
    growth = seconds(second) / seconds(first)
    against = f"{seconds(first):.2f} s ({spread(first)}) and {seconds(second):.2f} s ({spread(second)})"
    figures = [
        Figure(f"{MANY:,} tensors, beside {FEW:,}", growth, "x the time", against, f"<= {1.2 * MANY / FEW:g}"),
        Figure(f"{MANY:,} tensors, memory", peak(second), "MiB", f"{FEW:,}: {peak(first):.0f} MiB", "<= 64"),
    ]
    sparse = _runs(runs, _sparse(folder / "sparse.safetensors"), repetitions, {"convert": {"select": ["^last$"]}})
    figures.append(Figure("one tensor of a 100 GiB file", seconds(sparse), f"s ({spread(sparse)})", "", "<= 1"))
    figures.append(Figure("one tensor of a 100 GiB file, memory", peak(sparse), "MiB", "", "<= 64"))
    sharded = _runs(runs, _shards(folder / "sharded"), repetitions)
    figures.append(Figure(f"{SHARDS:,} shards", seconds(sharded), f"s ({spread(sharded)})", ""))
    figures.append(Figure(f"{SHARDS:,} shards, memory", peak(sharded), "MiB", "", "<= 64"))
    return figures


def _runs(runs: LoaderRuns, path: Path, repetitions: int, *stages: dict[str, object]) -> list:  # type: ignore[type-arg]
    source = {"local": {"path": str(path)}}
    return [runs.fresh(source, *stages) for _ in range(repetitions + 1)][1:]


def _once(make: Callable[[Path], None], path: Path) -> Path:
    if not path.exists():
        make(path)
    return path


def _tensors(path: Path, count: int) -> Path:
    names = [f"layers.{n // 8:05}.part{n % 8}.weight" for n in range(count)]
    return _once(lambda path: _write(path, dict.fromkeys(names, TENSOR)), path)


def _sparse(path: Path) -> Path:
    """Tensors of a GiB that take no room on the disk, and a small one behind them."""
    sizes = {f"large.{n:03}": 1 << 30 for n in range(SPARSE >> 30)} | {"last": TENSOR}
    return _once(lambda path: _write(path, sizes), path)


def _shards(folder: Path) -> Path:
    def make(folder: Path) -> None:
        folder.mkdir()
        names = {f"layers.{n:04}.weight": f"model-{n + 1:05}-of-{SHARDS:05}.safetensors" for n in range(SHARDS)}
        for name, file in names.items():
            _write(folder / file, {name: 1 << 16})
        index = {"metadata": {"total_size": SHARDS << 16}, "weight_map": names}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return _once(make, folder)


def _write(path: Path, sizes: dict[str, int]) -> None:
    """A safetensors file of zeros that are not on the disk."""
    entries, at = {}, 0
    for name, size in sizes.items():
        entries[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + at)
