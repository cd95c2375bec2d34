"""Measure whole processes: wall time and peak resident memory by the operating system's own accounting."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

LONGEST = 600  # seconds


@dataclass(frozen=True)
class Run:
    """One finished process."""

    seconds: float
    peak_mib: float  # largest resident set; this parent stays small, because exec keeps the parent's mark as a floor
    output: str


class RunError(RuntimeError):
    """A measured process did not exit with 0; the message ends with what it printed."""


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end; raises RunError with its output when it fails, or takes longer than ten minutes."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in command],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    timer = threading.Timer(LONGEST, process.kill)
    timer.start()
    with process.stdout as stream:
        output = stream.read()
    _, status, usage = os.wait4(process.pid, 0)
    timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RunError(f"{' '.join(map(str, command))} exited with {process.returncode}\n{output[-2000:]}")
    return Run(seconds, usage.ru_maxrss / 1024, output)


def touch_memory(folder: Path, size: int) -> None:
    """Write and remove `size` bytes in memory: a virtual machine's first use of a page takes longer than a copy."""
    scratch, block = folder / "touched", bytes(1 << 20)
    with scratch.open("wb") as file:
        for _ in range(size >> 20):
            file.write(block)
    scratch.unlink()


def rotate(
    contenders: Mapping[str, Callable[[], Run]], repetitions: int, *, warm_up: bool = True
) -> dict[str, list[Run]]:
    """Run every contender `repetitions` times after one warm-up, in an order that shifts each round."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    names = list(contenders)
    for name in names if warm_up else ():
        contenders[name]()
    for round_number in range(repetitions):
        shift = round_number % len(names)
        for name in names[shift:] + names[:shift]:
            runs[name].append(contenders[name]())
    return runs


def seconds(runs: Sequence[Run]) -> float:
    """Median wall seconds."""
    return median(run.seconds for run in runs)


def spread(runs: Sequence[Run]) -> str:
    """Fastest and slowest, for the table."""
    times = sorted(run.seconds for run in runs)
    return f"{times[0]:.2f}-{times[-1]:.2f} s"


def peak(runs: Sequence[Run]) -> float:
    """Largest peak of all runs, MiB."""
    return max(run.peak_mib for run in runs)


def median_of(values: Sequence[float]) -> float:
    """Median."""
    return median(values)
