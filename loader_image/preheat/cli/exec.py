"""`preheat exec`: a command with its checkpoint, outside Kubernetes."""

from __future__ import annotations

import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from preheat.cli.answer import answering
from preheat.cli.parameters import Bandwidth, held_to

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as shells say it


class Shim(StrEnum):
    """As the annotation `preheat.dev/shim` of a pod."""

    AUTO = "auto"
    MANUAL = "manual"
    OFF = "off"


def exec_(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="What to run, such as python train.py.")],
    pipeline: Annotated[
        Path, typer.Option("--pipeline", "-p", metavar="FILE", help="A CheckpointPipeline, or its spec alone.")
    ] = Path("pipeline.yaml"),
    volume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where bundles are kept. Default: PREHEAT_VOLUME, else a folder of caches."),
    ] = None,
    bandwidth: Bandwidth = None,
    shim: Annotated[Shim, typer.Option(help="As the annotation preheat.dev/shim of a pod.")] = Shim.AUTO,
) -> None:
    """Run a command as in an injected pod: with its bundle made before it starts, and the shim on its path."""
    from preheat.launch import become, default_volume, provide
    from preheat.spec import read

    with answering(False), held_to(bandwidth):
        name, spec = read(pipeline)
        _tell()
        variables = provide(spec, name, volume or default_volume(os.environ), shim)
    try:
        become(command, variables)
    except OSError as error:
        typer.echo(f"{command[0]} cannot be run: {error.strerror}", err=True)
        raise typer.Exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE) from None


def _tell() -> None:
    """The first of a job's processes says what is done; the others say only what is wrong."""
    from preheat.shim.reports.report import rank

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("preheat").setLevel(logging.WARNING if rank() else logging.INFO)
