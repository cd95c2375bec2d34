"""Choosing a checkpoint of a run with 10,000 names in a bucket: how many listings, and what is beyond them."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from processes import measure, median_of
from results import Figure
from servers import BUCKET

from preheat.sources.s3_listing import PAGE

HERE = Path(__file__).parent
CHECKPOINTS = 3_333  # of three files each
RUN = "many-names"
FILES = ("model", "optim", "trainer")


def make_run(folder: Path) -> None:
    """The run's names, as empty as names are: nothing of them is opened."""
    run = folder / "s3" / BUCKET / RUN
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    for epoch in range(CHECKPOINTS):
        for kind in FILES:
            (run / f"transformer_cp=E{epoch}_U{epoch * 100}_S{epoch * 800}_{kind}.th").write_bytes(b"x")
    (run / "hp_resolved.yaml").write_bytes(b"x")


def choosing(endpoint: str, repetitions: int) -> list[Figure]:
    """Whole processes that list and choose, and tell one from the other by their own clock."""
    found = [_told(endpoint) for _ in range(repetitions + 1)][1:]
    listing, beyond = (median_of([each[name] for each in found]) for name in ("listing", "beyond"))
    names, requests = found[0]["names"], found[0]["requests"]
    return [
        Figure(
            f"choosing among {names:,.0f} names, beyond the listing", beyond, "s", f"listing {listing:.2f} s", "<= 1"
        ),
        Figure("choosing, requests of the listing", requests, "", f"{PAGE} names each", f"<= {-(-names // PAGE):.0f}"),
    ]


def _told(endpoint: str) -> dict[str, float]:
    said = measure([sys.executable, HERE / "choosing_process.py", endpoint, BUCKET, RUN]).output
    return {name: float(value) for name, value in re.findall(r"(\w+)=([\d.e-]+)", said)}
