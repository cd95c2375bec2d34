"""Some tensors of many: 64 of 8 MiB, and 2,048 of 128 KiB in 32 runs, beside libraries that are told their ranges."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoints import RUNS, SCATTERED, WHOLE
from loader import LoaderRuns, over_s3
from peers import HERE, python
from processes import Run, measure, rotate, seconds, spread
from results import Figure
from servers import BUCKET

PEERS = {
    "obstore.get_ranges": "scattered_obstore",
    "boto3, 32 threads": "scattered_boto3",
    "fsspec.cat_ranges": "scattered_fsspec",
}
OWN, TOLD = "Preheat", "Preheat, told the ranges"
EVERY_FOURTH = r"^layers\.\d([02468][048]|[13579][26])\."
EVERY_EIGHTH_RUN = rf"^runs\.({'|'.join(f'{run:03}' for run in range(0, RUNS, 8))})\."


def scattered(place: str, runs: LoaderRuns, folder: Path, endpoint: str, repetitions: int) -> list[Figure]:
    """The peers have the ranges in a list, as Preheat's transfer alone; the loader finds them in the file's index."""
    figures = []
    for label, key, pattern in (
        ("64 tensors of 8 MiB", WHOLE, EVERY_FOURTH),
        ("2,048 tensors of 128 KiB", SCATTERED, EVERY_EIGHTH_RUN),
    ):
        output, ranges = runs.volume.parent / "peer", runs.volume.parent / "ranges.json"
        measure([sys.executable, HERE / "ranges_of.py", folder / key, pattern, ranges])
        where = (endpoint, BUCKET, key, output, ranges)
        convert = {"convert": {"select": [pattern]}}
        contenders: dict[str, Callable[[], Run]] = {
            OWN: functools.partial(runs.fresh, over_s3(endpoint, key), convert),
            TOLD: functools.partial(_fetch, [sys.executable, HERE / "told_ranges.py", *where], output),
        }
        for name, function in PEERS.items():
            command = [python(), HERE / "peer_clients.py", function, *where]
            contenders[name] = functools.partial(_fetch, command, output)
        results = rotate(contenders, repetitions)
        figures += _figures(f"{label} over {place}", results)
        for leftover in (output, ranges):
            leftover.unlink(missing_ok=True)
    return figures


def _fetch(command: list[Any], output: Path) -> Run:
    output.unlink(missing_ok=True)
    return measure(command)


def _figures(label: str, results: dict[str, list[Run]]) -> list[Figure]:
    figures = []
    for own in (OWN, TOLD):
        figures.append(Figure(f"{label}, {own}", seconds(results[own]), f"s ({spread(results[own])})"))
        for name in PEERS:
            found = results[name]
            ratio, against = seconds(found) / seconds(results[own]), f"{seconds(found):.2f} s ({spread(found)})"
            figures.append(Figure(f"{label}, {own} beside {name}", ratio, "x faster", against, "> 1"))
    return figures
