"""One flipped bit on the server's disk: who notices? A file that is wrong and an exit code of 0 is the worst of all."""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from checkpoints import SMALL
from loader import CRC_ONLY, LoaderRuns, over_s3
from peers import s3_peers
from processes import Run, RunError, measure
from results import Figure
from servers import BUCKET, s3_server

HERE = Path(__file__).parent
PLACE = 33_000_000  # of the byte, in the middle of a tensor


def damage(runs: LoaderRuns, folder: Path) -> list[Figure]:
    """A checkpoint of 64 MiB, uploaded with a CRC-64 of the whole, then changed where the server keeps it."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        measure([sys.executable, HERE / "checkpoints.py", scratch, SMALL])
        with s3_server(Path(scratch)) as endpoint:
            _flip(Path(scratch, "s3", BUCKET, SMALL))
            return _ask(runs, endpoint, Path(scratch, "output"))


def _flip(stored: Path) -> None:
    with stored.open("r+b") as file:
        file.seek(PLACE)
        byte = file.read(1)[0]
        file.seek(PLACE)
        file.write(bytes([byte ^ 1]))


def _ask(runs: LoaderRuns, endpoint: str, output: Path) -> list[Figure]:
    figures = [_figure("Preheat", lambda: runs.fresh(over_s3(endpoint, SMALL), CRC_ONLY), "<= 0")]
    for peer in s3_peers(endpoint, BUCKET, SMALL, output):
        output.unlink(missing_ok=True)
        figures.append(_figure(peer.name, functools.partial(measure, peer.command, peer.environment)))
    return figures


def _figure(name: str, fetch: Callable[[], Run], goal: str | None = None) -> Figure:
    """Whatever a client publishes here is wrong; all it can do right is to fail."""
    try:
        fetch()
    except RunError as error:
        said = str(error).splitlines()[-1].partition(" ")[2]  # after the time, or the class of the exception
        return Figure(f"one flipped bit, {name}", 0, "wrong files", f"{said:.50}...", goal)
    return Figure(f"one flipped bit, {name}", 1, "wrong files", "exit code 0", goal)
