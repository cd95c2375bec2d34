"""A bundle into the parameters of a model on the CPU, beside a plain copy in memory and beside other loaders.

Two processes hold a model each, one in the project's environment and one in the peers', and load when they are told to,
in turns. What is measured is a call that returns with the parameters filled: imports and the model are there before.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from checkpoints import EXPERTS, WHOLE
from load_names import (
    COPY,
    FAST_BUFFERED,
    LOAD_FILE,
    ON_CPU,
    PREHEAT,
    RUNAI_BUFFERED,
    TENSORIZER,
    TORCH,
    of_the_project,
)
from loader import UNCHECKED, LoaderRuns
from peers import HERE, python
from processes import Run, RunError, median_of, peak, rotate, seconds, spread, touch_memory
from results import Figure
from workers import Worker

#: Each peer in the mode that suits a warm file, as the goals want it; --all takes their defaults and the rest, too.
USUAL = (COPY, PREHEAT, LOAD_FILE, TORCH, RUNAI_BUFFERED, FAST_BUFFERED, TENSORIZER)
OF_SMALL = (COPY, PREHEAT, LOAD_FILE, RUNAI_BUFFERED, FAST_BUFFERED)


@dataclass(frozen=True)
class Load(Run):
    """One load; `peak_mib` is how much more than before the process held at once."""

    moving: float = 0  # seconds from the first byte to the last, where the contender says so


Results = Mapping[str, list[Load]]


def load(folder: Path, scratch: Path, repetitions: int, everybody: bool) -> list[Figure]:
    """Large tensors, many small ones, and memory."""
    with bundle(folder / "loading", folder / WHOLE) as large:
        size = large.joinpath("model.safetensors").stat().st_size
        found = compared(large, folder / WHOLE, ON_CPU if everybody else USUAL, scratch, repetitions)
        own = _first(large, folder / WHOLE).peak_mib
    with bundle(folder / "loading", folder / EXPERTS) as many:
        size_of_many = many.joinpath("model.safetensors").stat().st_size
        small = compared(many, folder / EXPERTS, OF_SMALL, scratch, repetitions)
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


def compared(
    folder: Path, pickled: Path, names: Sequence[str], scratch: Path, repetitions: int, device: str = "cpu"
) -> dict[str, list[Load]]:
    """Each contender's loads, in turns; those that cannot are left out, with what they say."""
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(_worker(own, folder, pickled, device)) for own in (True, False))

        def once(name: str) -> Load:
            touch_memory(scratch, folder.joinpath("model.safetensors").stat().st_size)
            return _asked(ours if of_the_project(name) else theirs, name)

        contenders: dict[str, Callable[[], Load]] = {}
        for name in names:
            try:
                once(name)
                contenders[name] = functools.partial(once, name)
            except RunError as error:
                print(f"    {name} is left out: {error}", flush=True)
        return rotate(contenders, repetitions, warm_up=False)


def _worker(own: bool, folder: Path, pickled: Path, device: str) -> Worker:
    return Worker([sys.executable if own else python(), HERE / "load_worker.py", folder, pickled, device])


def _asked(worker: Worker, name: str) -> Load:
    answer = worker.ask(name)
    if "error" in answer:
        raise RunError(answer["error"])
    return Load(answer["seconds"], answer["extra"], "", answer.get("moving", 0))


def _first(folder: Path, pickled: Path) -> Load:
    """A first load, in a process of its own: the code that it imports counts."""
    with _worker(True, folder, pickled, "cpu") as worker:
        return _asked(worker, PREHEAT)


def _rows(what: str, size: int, found: Results) -> list[Figure]:
    return [
        Figure(f"{what}, {name}", seconds(runs), f"s ({spread(runs)}), {peak(runs):.0f} MiB more", _rate(size, runs))
        for name, runs in found.items()
    ]


def _rate(size: int, runs: Sequence[Load]) -> str:
    return f"{size / 1e9 / seconds(runs):.2f} GB/s"


def _ratios(what: str, found: Results) -> list[Figure]:
    own = seconds(found[PREHEAT])
    best = min((name for name in found if name not in (PREHEAT, COPY)), key=lambda name: seconds(found[name]))
    return [
        Figure(f"{what}, Preheat beside {label}", seconds(found[name]) / own, "x faster", against, goal)
        for label, name, against, goal in (
            (COPY, COPY, f"{seconds(found[COPY]):.3f} s, Preheat {own:.3f} s", ">= 1.0"),
            ("the fastest other", best, f"{best}, {seconds(found[best]):.3f} s", "> 1"),
        )
    ]
