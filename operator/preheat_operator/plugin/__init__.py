"""The command `kubectl preheat`: one module per verb. What a verb needs is imported when it runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from preheat import __version__
from preheat_operator.plugin.explain import explain
from preheat_operator.plugin.forget import forget
from preheat_operator.plugin.render import render
from preheat_operator.plugin.status import status

app = typer.Typer(
    help="Why a pod has its checkpoint or not, what a pipeline does, and what the webhook makes of a pod.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for _verb, _example in (
    (explain, "explain job/finetune pod/trainer-x7k2p -n team-a"),
    (status, "status finetune --watch"),
    (render, "render -f job.yaml -f pipeline.yaml"),
    (forget, "forget exp-7"),
):
    app.command(epilog=f"Example: kubectl preheat {_example}")(_verb)


def main() -> None:
    """Run the command line."""
    try:
        app(prog_name="kubectl preheat")
    except ModuleNotFoundError as error:
        if error.name != "pydantic":
            raise
        sys.exit('kubectl preheat needs an extra of the package: pip install "preheat[kubectl]"')


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
