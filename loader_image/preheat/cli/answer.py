"""How every verb answers: a table or one JSON object on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, RenderableType

from preheat.errors import CheckpointError

if TYPE_CHECKING:
    from preheat.progress import Progress


@contextmanager
def answering(as_json: bool) -> Iterator[None]:
    """Turn what a verb raises into its message and its exit code."""
    try:
        yield
    except CheckpointError as error:
        _complain(error, as_json)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing unfinished is left", err=True)
        raise typer.Exit(130) from None


def show_json(answer: dict[str, Any]) -> None:
    """One object on one line."""
    typer.echo(json.dumps(answer))


def show(*parts: RenderableType) -> None:
    """Tables and sentences, for a person; a sentence stays one line, however narrow the terminal is."""
    console = Console(highlight=False)
    for part in parts:
        if isinstance(part, str):
            typer.echo(part)
        else:
            console.print(part)


def progress(doing: str) -> Progress:
    """A bar on a terminal; elsewhere lines."""
    from preheat.terminal import Bar

    console = Console(stderr=True)
    if console.is_terminal:
        return Bar(console, doing)
    from preheat.progress import LogProgress

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    log = logging.getLogger("preheat")
    log.setLevel(logging.INFO)
    return LogProgress(log)


def _complain(error: CheckpointError, as_json: bool) -> None:
    if as_json:
        show_json({"outcome": "failed", "reason": error.reason, "message": error.args[0], "remedy": error.remedy})
    typer.echo(f"{error.reason}: {error.args[0]}" + (f"\n  {error.remedy}" if error.remedy else ""), err=True)
