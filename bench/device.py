"""`make bench-device`: bundles into a model's parameters on a GPU, beside a pinned copy and beside other loaders.

Each cell is a file in a place: in memory, on the disk and in the page cache, on the disk alone. A cell's contenders
take turns; the load that counts most, the first one of a fresh process, is a cell of its own. Without a GPU nothing is
measured, and that is no failure; `--device cpu --scale 0.1 --files mixed` tries the bench itself.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from contest import Load, Loads, compared, first
from device_files import Model, make_bundle, models
from load_names import INSTANT, LOAD_FILE, ON_GPU, PINNED_COPY, PREFETCH, PREHEAT
from peers import HERE
from processes import RunError, measure, median_of, rotate
from results import Figure, show, write

PLACES = ("memory", "warm", "cold")
MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Cell:
    """One comparison: a file, where it is, and whether every load is the first of its process."""

    file: str
    place: str
    fresh: bool = False

    @property
    def name(self) -> str:
        """For a table."""
        return f"{self.file}, {self.place}{', first load' if self.fresh else ''}"


#: What matters most comes first: the time on a GPU may end.
CELLS = (
    Cell("llama", "memory"),
    Cell("llama", "warm"),
    Cell("llama", "warm", fresh=True),
    Cell("llama", "cold"),
    Cell("small", "memory"),
    Cell("mixed", "memory"),
)
FRESH = (PINNED_COPY, PREHEAT, LOAD_FILE, PREFETCH, INSTANT)


def main(words: Sequence[str] | None = None) -> None:
    """Measure; exit 1 when a goal is missed."""
    options = _options(words)
    if options.device != "cpu" and not torch.cuda.is_available():
        print("there is no GPU that torch can use here\nskipped: no GPU")
        return
    chosen = [cell for cell in CELLS if cell.file in options.files and cell.place in options.places]
    known, started = models(options.scale), time.monotonic()
    for cell in chosen:
        print(f"    {cell.name}: {known[cell.file].size / 1e9:.2f} GB in {len(known[cell.file].shapes)} tensors")
    if options.plan:
        return
    found: dict[str, list[Figure]] = {}
    for cell in chosen:
        if time.monotonic() - started > 60 * options.minutes:
            print(f"==> {cell.name} is left out: {options.minutes} minutes are over")
            continue
        print(f"==> {cell.name}", flush=True)
        found[f"device {cell.name}"] = list(_measured(cell, known[cell.file], options))
    figures = [figure for part in found.values() for figure in part]
    figures += _small_beside_large(figures)
    show(figures, f"Loading to {options.device}, medians (command: make bench-device)", machine())
    if options.device != "cpu":
        write(found, HERE / "results.json")
    if missed := [figure.name for figure in figures if figure.met is False]:
        raise SystemExit(f"goals missed: {', '.join(missed)}")


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-device", description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="where the models are (cuda:0)")
    parser.add_argument("--files", nargs="+", choices=list(models(0)), default=list(models(0)))
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES))
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--fresh", type=int, default=5, help="processes that load once each")
    parser.add_argument("--scale", type=float, default=1.0, help="fewer layers, to try the bench")
    parser.add_argument("--minutes", type=float, default=20, help="after them no comparison is begun")
    parser.add_argument("--folder", type=Path, help="on a disk (the cache)")
    parser.add_argument("--plan", action="store_true", help="say what would be measured")
    return parser.parse_args(words)


def _measured(cell: Cell, model: Model, options: argparse.Namespace) -> Iterator[Figure]:
    folder = _folder(cell, options)
    bundle = make_bundle(folder / cell.file, model)
    weights, pickled = bundle / "model.safetensors", folder / "model.pt"
    try:
        state = functools.partial(set_state, cell, weights)
        if cell.fresh:
            yield from _first_loads(cell, model, bundle, pickled, state, options)
            return
        state()
        yield from _floors(cell, weights, options.device)
        found, checked = compared(bundle, pickled, ON_GPU, options.repetitions, state, options.device)
        yield from _rows(cell, model, found, checked)
        yield from _goals(cell, found, checked)
    finally:
        shutil.rmtree(folder)


def _folder(cell: Cell, options: argparse.Namespace) -> Path:
    cache = Path(os.environ.get("PREHEAT_CACHE", Path.home() / ".cache" / "preheat"))
    where = MEMORY if cell.place == "memory" else options.folder or cache / "bench"
    return where / "preheat-bench-device"


def set_state(cell: Cell, weights: Path) -> None:
    """Put the file into the page cache, or out of it; raises RunError when the kernel did not follow."""
    if cell.place == "memory":
        return
    for path in weights.parent.parent.rglob("model.*"):
        with path.open("rb") as file:
            if cell.place == "warm":
                while file.read(16 << 20):
                    pass
            else:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if (share := cached(weights)) != (cell.place == "warm"):
        raise RunError(f"{share:.0%} of {weights} are in the page cache")


def cached(path: Path, probes: int = 64) -> float:
    """Which part of a file's pages the kernel has at hand, by asking for some of them without waiting."""
    with path.open("rb") as file:
        size, hits = path.stat().st_size, 0
        for number in range(probes):
            with suppress(BlockingIOError):
                hits += os.preadv(file.fileno(), [bytearray(1)], size * number // probes, os.RWF_NOWAIT)
    return hits / probes


def _first_loads(
    cell: Cell, model: Model, bundle: Path, pickled: Path, state: Callable[[], None], options: argparse.Namespace
) -> Iterator[Figure]:
    def once(name: str) -> Load:
        state()
        return first(bundle, pickled, name, options.device)

    able = {}
    for name in FRESH:
        try:
            once(name)
            able[name] = functools.partial(once, name)
        except RunError as error:
            print(f"    {name} is left out: {error}", flush=True)
    found = rotate(able, options.fresh, warm_up=False)
    yield from _rows(cell, model, found, {})
    yield from _goals(cell, found, {})


def _floors(cell: Cell, weights: Path, device: str) -> Iterator[Figure]:
    run = measure([sys.executable, HERE / "device_floors.py", weights, device])
    for name, rate in json.loads(run.output.splitlines()[-1]).items():
        yield Figure(f"{cell.name}, {name}", rate, "GB/s")


def _rows(cell: Cell, model: Model, found: Loads, checked: Mapping[str, Load]) -> Iterator[Figure]:
    for name, runs in found.items():
        times = sorted(run.seconds for run in runs)
        facts = [
            f"{times[0]:.3f}-{times[-1]:.3f} s",
            f"processor {median_of([run.processor for run in runs]):.2f} s",
            f"host {max(run.peak_mib for run in runs):.0f} MiB, pinned {max(run.pinned for run in runs):.0f} MiB",
            f"device {checked[name].device:.0f} MiB" if name in checked else "",
        ]
        rate = model.size / 1e9 / median_of(times)
        yield Figure(f"{cell.name}, {name}", rate, "GB/s", "; ".join(filter(None, facts)))


def _goals(cell: Cell, found: Loads, checked: Mapping[str, Load]) -> Iterator[Figure]:
    """Preheat beside the link, beside the best of the others, beside what it may take."""
    if PREHEAT not in found or PINNED_COPY not in found:
        raise RunError("Preheat or the pinned copy could not be measured")
    seconds = {name: median_of([run.seconds for run in runs]) for name, runs in found.items()}
    own = seconds[PREHEAT]
    others = {name: took for name, took in seconds.items() if name not in (PREHEAT, PINNED_COPY)}
    goal = None if cell.place == "cold" else ">= 0.85"
    yield Figure(f"{cell.name}, beside the pinned copy", seconds[PINNED_COPY] / own, "x", "", goal)
    if others:
        best = min(others, key=lambda name: others[name])
        yield Figure(f"{cell.name}, beside the best of the others", others[best] / own, "x", best, ">= 1.0")
    if LOAD_FILE in others:
        yield Figure(f"{cell.name}, beside safetensors", others[LOAD_FILE] / own, "x", LOAD_FILE)
    if PREHEAT in checked:
        yield Figure(f"{cell.name}, more of the device", checked[PREHEAT].device, "MiB", "", "<= 256")
    yield Figure(f"{cell.name}, pinned", max(run.pinned for run in found[PREHEAT]), "MiB", "", "<= 512")


def _small_beside_large(figures: Sequence[Figure]) -> list[Figure]:
    rates = {figure.name: figure.figure for figure in figures}
    small, large = (rates.get(f"{Cell(file, 'memory').name}, {PREHEAT}") for file in ("small", "llama"))
    if not small or not large:
        return []
    against = f"{small:.1f} and {large:.1f} GB/s"
    return [Figure("9,000 small tensors, their rate beside that of large ones", small / large, "x", against, ">= 0.7")]


def machine() -> str:
    """What was measured, on what."""
    asked = "name,driver_version,pcie.link.gen.current,pcie.link.width.current"
    lines = [f"Linux {os.uname().release}, {os.cpu_count()} processors"]
    if tool := shutil.which("nvidia-smi"):
        answer = subprocess.run([tool, f"--query-gpu={asked}", "--format=csv,noheader"], capture_output=True, text=True)
        lines.append(f"{asked}: {answer.stdout.strip()}")
    nodes = Path("/sys/devices/system/node/online")
    lines.append(f"memory nodes {nodes.read_text().strip()}" if nodes.exists() else "memory nodes unknown")
    return "; ".join(lines)


if __name__ == "__main__":
    main()
