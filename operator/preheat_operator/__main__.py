"""`python -m preheat_operator controller|webhook|crds`: the two processes of the operator, and its generated files."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import typer

from preheat_operator.settings import Settings, SettingsError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def controller() -> None:
    """Keep the status of every CheckpointPipeline true to its pods."""
    from preheat_operator import controller as process
    from preheat_operator.logs import configure

    settings = _settings()
    configure(settings)
    try:
        asyncio.run(process.run(settings))
    except process.EndedError as error:
        sys.exit(str(error))


@app.command()
def webhook() -> None:
    """Answer admission reviews of labelled pods."""
    from preheat_operator import webhook as process
    from preheat_operator.logs import configure

    settings = _settings()
    configure(settings)
    asyncio.run(process.serve(settings))


@app.command()
def crds(root: Path = Path()) -> None:
    """Write crds/, the chart's copy and docs/reference.md under ROOT from the models."""
    from preheat_operator import crd, reference

    crd.write(root)
    reference.write(root)


def _settings() -> Settings:
    try:
        return Settings.from_environment()
    except SettingsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    app()
