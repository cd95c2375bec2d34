"""Whole training processes: what each rank of a sharded model reads, and from a process's start to its first step."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

from checkpoints import DEMO, WHOLE
from load import bundle
from peers import HERE
from processes import Run, measure, rotate, seconds, spread
from results import Figure
from shim.pod import lay_out_shim

RANKS = 4
PREHEAT, TORCH = "preheat.apply", "torch.load + load_state_dict"
ALONE = ", of the weights alone"


def sharded(folder: Path, scratch: Path) -> list[Figure]:
    """FSDP2 from the meta device, over gloo."""
    with bundle(folder / "loading", folder / WHOLE) as found:
        size = found.joinpath("model.safetensors").stat().st_size
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
        settings = {"OMP_NUM_THREADS": "1", "PREHEAT_REPORT": str(scratch / "report.json")}
        run = measure([*torchrun, HERE / "fsdp_rank.py", found], settings)
    ranks = [json.loads(line) for line in run.output.splitlines() if line.startswith('{"rank"')]
    most = max(rank["read"] for rank in ranks)
    against = f"{most / 1e6:.0f} MB of {size / 1e6:.0f} MB, the most of {len(ranks)} ranks"
    return [Figure(f"FSDP2 on {RANKS} ranks, bytes read by a rank", most / size, "of the file", against, "<= 0.2625")]


def first_step(folder: Path, scratch: Path, repetitions: int) -> list[Figure]:
    """The demo's model: with its bundle, as a pod has it, and with the checkpoint that the bundle was made of."""
    shim, alone = scratch / "shim", scratch / "alone.pt"
    shim.mkdir()
    lay_out_shim(shim)
    measure([sys.executable, HERE / "weights_alone.py", folder / DEMO, alone])
    script = [sys.executable, HERE / "first_step.py"]
    with bundle(folder / "loading", folder / DEMO) as found:
        pod = {
            "PYTHONPATH": str(shim), "PREHEAT_BUNDLE": str(found), "PREHEAT_SHIM": "auto",
            "PREHEAT_REPORT": str(scratch / "report.json"),
        }  # fmt: skip
        contenders = {
            PREHEAT: functools.partial(measure, [*script, "preheat"], pod),
            TORCH: functools.partial(measure, [*script, "load", folder / DEMO]),
            f"{TORCH}, mmap": functools.partial(measure, [*script, "mmap", folder / DEMO]),
            f"{TORCH}{ALONE}": functools.partial(measure, [*script, "load", alone]),
        }
        results = rotate(contenders, repetitions)
    alone.unlink()
    return _figures(results)


def _figures(results: dict[str, list[Run]]) -> list[Figure]:
    times = {name: seconds(runs) for name, runs in results.items()}
    peaks = {name: max(_before_the_step(run) for run in runs) for name, runs in results.items()}
    figures = [
        Figure(f"first step, {name}", times[name], f"s ({spread(runs)})", f"{peaks[name]:.0f} MiB at most before it")
        for name, runs in results.items()
    ]
    for what, found, unit in (("seconds", times, "s"), ("memory before it", peaks, "MiB")):
        against = f"{found[PREHEAT]:.4g} and {found[TORCH]:.4g} {unit}"
        ratio = found[PREHEAT] / found[TORCH]
        figures.append(Figure(f"first step, {what} beside {TORCH}", ratio, "x", against, "<= 1.0"))
    return figures


def _before_the_step(run: Run) -> float:
    """MiB; the step itself needs the same whoever loaded the weights."""
    [line] = [line for line in run.output.splitlines() if line.startswith("peak ")]
    return float(line.split()[1])
