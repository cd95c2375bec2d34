"""A bundle into the parameters of a model on the CPU, beside a plain copy in memory and beside other loaders.

What is measured is a call that returns with the parameters filled: imports and the model are there before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from checkpoints import EXPERTS, WHOLE
from contest import Load, Loads, compared, first
from load_names import (
    COPY,
    FAST_BUFFERED,
    LOAD_FILE,
    ON_CPU,
    PREHEAT,
    RUNAI_BUFFERED,
    TENSORIZER,
    TORCH,
)
from loader import UNCHECKED, LoaderRuns
from processes import median_of, peak, seconds, touch_memory
from results import Figure

#: Each peer in the mode that suits a warm file, as the goals want it; --all takes their defaults and the rest, too.
USUAL = (COPY, PREHEAT, LOAD_FILE, TORCH, RUNAI_BUFFERED, FAST_BUFFERED, TENSORIZER)
OF_SMALL = (COPY, PREHEAT, LOAD_FILE, RUNAI_BUFFERED, FAST_BUFFERED)


def load(folder: Path, scratch: Path, repetitions: int, everybody: bool) -> list[Figure]:
    """Large tensors, many small ones, and memory."""
    with bundle(folder / "loading", folder / WHOLE) as large:
        size = large.joinpath("model.safetensors").stat().st_size
        names = ON_CPU if everybody else USUAL
        found, _ = compared(large, folder / WHOLE, names, repetitions, lambda: touch_memory(scratch, size))
        own = first(large, folder / WHOLE, PREHEAT).peak_mib
    with bundle(folder / "loading", folder / EXPERTS) as many:
        size_of_many = many.joinpath("model.safetensors").stat().st_size
        small, _ = compared(many, folder / EXPERTS, OF_SMALL, repetitions, lambda: touch_memory(scratch, size_of_many))
    rates = [s / 1e9 / median_of([run.moving for run in r[PREHEAT]]) for s, r in ((size_of_many, small), (size, found))]
    against = f"{rates[0]:.1f} and {rates[1]:.1f} GB/s, from the first byte to the last"
    return [
        *_rows("2 GiB", size, found),
        *_ratios("2 GiB", found),
        Figure("2 GiB, memory beside the model, Preheat", own, "MiB", "first load of a process", "<= 64"),
        *_rows("9,000 tensors", size_of_many, small),
        Figure("9,000 tensors, their bytes' rate beside that of 2 GiB", rates[0] / rates[1], "x", against, ">= 0.7"),
    ]


@contextmanager
def bundle(volume: Path, checkpoint: Path) -> Iterator[Path]:
    """A checkpoint as the loader leaves it on a disk."""
    runs = LoaderRuns(volume)
    runs.fresh({"local": {"path": str(checkpoint)}}, UNCHECKED)
    try:
        yield runs.weights().parent
    finally:
        runs.empty()


def _rows(what: str, size: int, found: Loads) -> list[Figure]:
    return [
        Figure(f"{what}, {name}", seconds(runs), f"s ({_between(runs)}), {peak(runs):.0f} MiB more", _rate(size, runs))
        for name, runs in found.items()
    ]


def _between(runs: Sequence[Load]) -> str:
    times = sorted(run.seconds for run in runs)
    return f"{times[0]:.3f}-{times[-1]:.3f} s"


def _rate(size: int, runs: Sequence[Load]) -> str:
    return f"{size / 1e9 / seconds(runs):.2f} GB/s; processor {median_of([run.processor for run in runs]):.2f} s"


def _ratios(what: str, found: Loads) -> list[Figure]:
    own = seconds(found[PREHEAT])
    best = min((name for name in found if name not in (PREHEAT, COPY)), key=lambda name: seconds(found[name]))
    return [
        Figure(f"{what}, Preheat beside {label}", seconds(found[name]) / own, "x faster", against, goal)
        for label, name, against, goal in (
            (COPY, COPY, f"{seconds(found[COPY]):.3f} s, Preheat {own:.3f} s", ">= 1.0"),
            ("the fastest other", best, f"{best}, {seconds(found[best]):.3f} s", "> 1"),
        )
    ]
