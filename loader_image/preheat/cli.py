"""The command `preheat`. What its verbs do lives elsewhere and is imported when a verb runs."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from preheat import __version__
from preheat.errors import CheckpointConfigError, CheckpointError

if TYPE_CHECKING:
    from preheat.prepare import Outcome
    from preheat.progress import Progress
    from preheat.spec import PipelineSpec

app = typer.Typer(
    help="Gives a training pod its checkpoint before the training process starts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def preheat(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that belong to no verb."""


@app.command("run")
def run(
    pipeline: Annotated[
        Path,
        typer.Argument(
            metavar="PIPELINE.yaml",
            help="A CheckpointPipeline, or its spec alone. A relative path of a `local` source counts from the current "
            "directory, not from this file.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder in which bundles are made and found again.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the summary.")] = False,
) -> None:
    """Do the loader's part of a pipeline here: fetch, check and convert its checkpoint into a bundle."""
    try:
        outcome = _prepare(pipeline, output)
    except CheckpointError as error:
        _complain(error, as_json)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing unfinished is left", err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps({"folder": str(outcome.folder.absolute()), **outcome.to_json()}))
    else:
        _summarize(outcome)


def _prepare(path: Path, output: Path) -> Outcome:
    from preheat.bundle import Store
    from preheat.lease import owner_here
    from preheat.prepare import prepare

    document = _read(path)
    return prepare(_parse(document, path), Store(output), owner_here(), progress=_progress())


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        documents = [found for found in yaml.safe_load_all(path.read_text()) if found]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise CheckpointConfigError(f"{path} cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        raise CheckpointConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise CheckpointConfigError(f"{path} must hold one pipeline", remedy="Begin it with `stages:`")
    return documents[0]


def _parse(document: dict[str, Any], path: Path) -> PipelineSpec:
    from preheat.spec import parse

    try:
        return parse(document)
    except CheckpointConfigError as error:
        raise CheckpointConfigError(f"{path}: {error.args[0]}", remedy=error.remedy) from error


def _progress() -> Progress | None:
    """A bar on a terminal; elsewhere the loader's own lines."""
    from preheat.terminal import Bar

    console = Console(stderr=True)
    if console.is_terminal:
        return Bar(console)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("preheat").setLevel(logging.INFO)
    return None


def _complain(error: CheckpointError, as_json: bool) -> None:
    if as_json:
        failure = {"outcome": "failed", "reason": error.reason, "message": error.args[0], "remedy": error.remedy}
        typer.echo(json.dumps(failure))
    typer.echo(f"{error.reason}: {error.args[0]}" + (f"\n  {error.remedy}" if error.remedy else ""), err=True)


def _summarize(outcome: Outcome) -> None:
    from preheat.terminal import summary

    Console(highlight=False).print(summary(outcome))
    typer.echo(str(outcome.folder.absolute()))
