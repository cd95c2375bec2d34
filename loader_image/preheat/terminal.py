"""What `preheat` shows to a person at a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from preheat.amounts import count_of, parameters_text, size_text

if TYPE_CHECKING:
    from preheat.checks import Checks
    from preheat.prepare import Outcome


class Bar:
    """A progress bar with bytes, rate and time left."""

    def __init__(self, console: Console, doing: str) -> None:
        self._progress = Progress(
            TextColumn(doing), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task(doing, total=None)

    def wait(self) -> None:
        """Show nothing: the log says it."""

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


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and what is known of them, one a line."""
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for name, value in rows:
        table.add_row(plain(name), plain(value))
    return table


def plain(text: str) -> Text:
    """Text from outside as it is: neither markup nor anything that a terminal obeys."""
    return Text(text if text.isprintable() else ascii(text)[1:-1])


def said_checks(checks: Checks) -> str:
    """What is checked, in a few words."""
    wanted = (("CRC-32", checks.crc32), ("finite", checks.finite), ("sizes", True))
    return ", ".join([*checks.of_all, *(said for said, done in wanted if done)])


def summary(outcome: Outcome) -> Table:
    """What was loaded from where, what was left out and what was checked."""
    manifest = outcome.manifest
    totals, left = manifest.totals, manifest.left
    taken = f"{totals.tensors}, {parameters_text(totals.parameters)}, {size_text(totals.selected_bytes)}"
    return facts(
        [
            ("source", manifest.source.uri),
            ("version", manifest.source.version),
            ("format", f"{manifest.source.format} ({manifest.source.layout})"),
            ("tensors", taken),
            ("left out", f"{count_of(left.state_tensors, 'tensor')}, {size_text(left.state_bytes)}"),
            ("excluded", f"{count_of(left.excluded_tensors, 'weight')}, {size_text(left.excluded_bytes)}"),
            ("checked", said_checks(manifest.checks)),
            *(("warning", warning) for warning in manifest.warnings),
            ("took", f"{outcome.seconds:.2f} s" + (", the bundle was there already" if outcome.reused else "")),
        ]
    )
