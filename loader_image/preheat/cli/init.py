"""`preheat init`: a ready-made pipeline to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preheat.cli.answer import answering, show
from preheat.cli.files import write
from preheat.errors import CheckpointConfigError

if TYPE_CHECKING:
    from rich.table import Table


def init(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of the template; none: show what there is.")] = (
        None
    ),
    python: Annotated[bool, typer.Option("--python", help="Write it as a Python function.")] = False,
    hydra: Annotated[bool, typer.Option("--hydra", help="Write it as a file of a Hydra config group.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: NAME.yaml or NAME.py; - prints it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a ready-made pipeline: a CheckpointPipeline, or the same in Python or for Hydra."""
    with answering(False):
        if name is None:
            show(_table())
            return
        text = _text(name, python=python, hydra=hydra)
        path = output or Path(f"{name.replace('-', '_')}.py" if python else f"{name}.yaml")
        if str(path) == "-":
            typer.echo(text, nl=False)
            return
        write(path, text, force=force)
    typer.echo(str(path))


def _text(name: str, *, python: bool, hydra: bool) -> str:
    from preheat import templates

    if python and hydra:
        raise CheckpointConfigError("--python and --hydra are two spellings", remedy="Give one of them")
    if python:
        return templates.in_python(name)
    return templates.for_hydra(name) if hydra else templates.resource(name)


def _table() -> Table:
    from preheat import templates
    from preheat.terminal import facts

    return facts([(name, templates.about(name)) for name in templates.names()])
