"""What grows with what: time and memory by number of tensors, by number of files, and by size."""

from __future__ import annotations

import sys
from pathlib import Path

from loader import LoaderRuns
from processes import Run, measure, peak, seconds, spread
from results import Figure
from scale_files import FEW, FEW_TENSORS, MANY, MANY_TENSORS, SHARDED, SHARDS, SPARSE

HERE = Path(__file__).parent


def scale(runs: LoaderRuns, folder: Path, repetitions: int) -> list[Figure]:
    """Ten times the tensors, a thousand files, and a file larger than any disk here: safetensors of our own header."""
    measure([sys.executable, HERE / "scale_files.py", folder])  # not here: a child's peak is no lower than its parent's
    first, second = (_runs(runs, folder / name, repetitions) for name in (FEW_TENSORS, MANY_TENSORS))
    growth = seconds(second) / seconds(first)
    against = f"{seconds(first):.2f} s ({spread(first)}) and {seconds(second):.2f} s ({spread(second)})"
    figures = [
        Figure(f"{MANY:,} tensors, beside {FEW:,}", growth, "x the time", against, f"<= {1.2 * MANY / FEW:g}"),
        Figure(f"{MANY:,} tensors, memory", peak(second), "MiB", f"{FEW:,}: {peak(first):.0f} MiB", "<= 64"),
    ]
    sparse = _runs(runs, folder / SPARSE, repetitions, {"convert": {"select": ["^last$"]}})
    figures.append(Figure("one tensor of a 100 GiB file", seconds(sparse), f"s ({spread(sparse)})", "", "<= 1"))
    figures.append(Figure("one tensor of a 100 GiB file, memory", peak(sparse), "MiB", "", "<= 64"))
    sharded = _runs(runs, folder / SHARDED, repetitions)
    figures.append(Figure(f"{SHARDS:,} shards", seconds(sharded), f"s ({spread(sharded)})", ""))
    figures.append(Figure(f"{SHARDS:,} shards, memory", peak(sharded), "MiB", "", "<= 64"))
    return figures


def _runs(runs: LoaderRuns, path: Path, repetitions: int, *stages: dict[str, object]) -> list[Run]:
    source = {"local": {"path": str(path)}}
    return [runs.fresh(source, *stages) for _ in range(repetitions + 1)][1:]
