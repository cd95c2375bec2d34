"""`preheat run`: the loader's part of a pipeline, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preheat.cli.answer import answering, progress, show, show_json
from preheat.cli.parameters import Bandwidth, Json, PipelineFile, held_to, read_pipeline

if TYPE_CHECKING:
    from preheat.prepare import Outcome


def run(
    pipeline: PipelineFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder in which bundles are made and found again.")
    ],
    bandwidth: Bandwidth = None,
    as_json: Json = False,
) -> None:
    """Do the loader's part of a pipeline here: fetch, check and convert its checkpoint into a bundle."""
    with answering(as_json), held_to(bandwidth):
        outcome = _prepare(pipeline, output)
    if as_json:
        show_json({"folder": str(outcome.folder.absolute()), **outcome.to_json()})
    else:
        from preheat.terminal import summary

        show(summary(outcome))
        typer.echo(str(outcome.folder.absolute()))


def _prepare(path: Path, output: Path) -> Outcome:
    from preheat.verbs.preparation import run_pipeline

    spec = read_pipeline(path)
    if spec.resume:
        typer.echo(
            "resume is decided where a training starts, as by preheat exec; this is the stages' bundle", err=True
        )
    return run_pipeline(spec, output, progress=progress("preparing"))
