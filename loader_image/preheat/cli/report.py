"""`preheat report`: what a training process did with its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preheat.cli.answer import answering, show, show_json
from preheat.cli.parameters import Json
from preheat.errors import StorageError


def report(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A report's JSON; default: where this environment's process writes it."),
    ] = None,
    as_json: Json = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="OUT", help="Write one self-contained page instead.")
    ] = None,
) -> None:
    """Show what was loaded, cast, skipped, reset, left at its initial value and frozen."""
    with answering(as_json):
        from preheat.shim.reports.facts import read
        from preheat.shim.reports.report import rank, report_path

        found = read(file or report_path(rank()))
        if html:
            _write(found, html)
    if as_json:
        show_json(found)
    elif html:
        typer.echo(str(html.absolute()))
    else:
        from preheat.shim.reports.table import table

        show(table(found))


def _write(found: dict[str, object], path: Path) -> None:
    from preheat.shim.reports.html import page

    try:
        path.write_text(page(found), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}", remedy="Name another file") from error
