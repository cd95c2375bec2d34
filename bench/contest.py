"""Contenders of loading, in turns. Two processes hold a model: in the project's environment, and in the peers'."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from load_names import of_the_project
from peers import HERE, python
from processes import Run, RunError, rotate
from workers import Worker


@dataclass(frozen=True)
class Load(Run):
    """One load; `peak_mib` is how much more than before the process held at once."""

    moving: float = 0  # seconds from the first byte to the last, where the contender says so
    processor: float = 0  # seconds of all its threads
    pinned: float = 0  # MiB
    device: float = 0  # MiB of the device, where it was watched


Loads = Mapping[str, list[Load]]


def compared(
    bundle: Path,
    pickled: Path,
    names: Sequence[str],
    repetitions: int,
    before: Callable[[], None],
    device: str = "cpu",
) -> tuple[dict[str, list[Load]], dict[str, Load]]:
    """Each contender's loads, in turns, and one that was checked; those that cannot are left out, with what they say.

    `before` is done before each load: what the file's state should be, or the memory's.
    """
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(worker_of(own, bundle, pickled, device)) for own in (True, False))

        def once(name: str, verb: str = "load") -> Load:
            before()
            return asked(ours if of_the_project(name) else theirs, verb, name)

        checked: dict[str, Load] = {}
        for name in names:
            try:
                checked[name] = once(name, "check")
            except RunError as error:
                print(f"    {name} is left out: {error}", flush=True)
        contenders = {name: functools.partial(once, name) for name in checked}
        return rotate(contenders, repetitions, warm_up=False), checked


def first(bundle: Path, pickled: Path, name: str, device: str = "cpu") -> Load:
    """A first load, in a process of its own: the code that it imports counts."""
    with worker_of(of_the_project(name), bundle, pickled, device) as worker:
        return asked(worker, "load", name)


def worker_of(own: bool, bundle: Path, pickled: Path, device: str) -> Worker:
    """A process with a model on the device."""
    return Worker([sys.executable if own else python(), HERE / "load_worker.py", bundle, pickled, device])


def asked(worker: Worker, verb: str, name: str) -> Load:
    """One load, or one that is checked and not timed; raises RunError with what the worker says went wrong."""
    answer = worker.ask(f"{verb} {name}")
    if "error" in answer:
        raise RunError(answer["error"])
    rest = {key: answer[key] for key in ("moving", "processor", "pinned", "device") if key in answer}
    return Load(answer["seconds"], answer["extra"], "", **rest)
