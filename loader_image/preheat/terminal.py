"""What `preheat` shows to a person at a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from preheat.prepare import Outcome
from preheat.storage import megabytes


class Bar:
    """A progress bar with bytes, rate and time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("preparing"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("preparing", total=None)

    def start(self, total: int) -> None:
        """Show the bar."""
        self._progress.update(self._task, total=total)
        self._progress.start()

    def advance(self, count: int) -> None:
        """Move it on."""
        self._progress.advance(self._task, count)

    def finish(self) -> None:
        """Take it away."""
        self._progress.stop()


def summary(outcome: Outcome) -> Table:
    """What was loaded from where, what was left out and what was checked."""
    manifest, totals, left, checks = (
        outcome.manifest,
        outcome.manifest.totals,
        outcome.manifest.left,
        outcome.manifest.checks,
    )
    checked = [
        said
        for said, done in (
            ("SHA-256", checks.sha256),
            ("CRC-32", checks.crc32),
            ("finite", checks.finite),
            ("sizes", True),
        )
        if done
    ]
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for name, value in (
        ("source", manifest.source.uri),
        ("version", manifest.source.version),
        ("format", f"{manifest.source.format} ({manifest.source.layout})"),
        (
            "tensors",
            f"{totals.tensors}, {totals.parameters / 1e6:.1f} M parameters, {megabytes(totals.selected_bytes)}",
        ),
        ("left out", f"{left.state_tensors} tensors, {megabytes(left.state_bytes)}"),
        ("checked", ", ".join(checked)),
        ("took", f"{outcome.seconds:.2f} s" + (", the bundle was there already" if outcome.reused else "")),
    ):
        table.add_row(name, Text(value))  # no markup: names come from outside
    return table
