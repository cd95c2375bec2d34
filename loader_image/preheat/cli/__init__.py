"""The command `preheat`: one module per verb. What the verbs do lives elsewhere and is imported when a verb runs."""

from __future__ import annotations

from typing import Annotated

import typer

from preheat import __version__
from preheat.cli.cache import cache
from preheat.cli.checksum import checksum
from preheat.cli.compare import compare
from preheat.cli.convert import convert
from preheat.cli.exec import exec_
from preheat.cli.info import info
from preheat.cli.init import init
from preheat.cli.inspect import inspect
from preheat.cli.ls import ls
from preheat.cli.migrate import migrate
from preheat.cli.plan import plan
from preheat.cli.prune import prune
from preheat.cli.report import report
from preheat.cli.run import run
from preheat.cli.tag import tag
from preheat.cli.upload import upload
from preheat.cli.verify import verify

app = typer.Typer(
    help="Gives a training pod its checkpoint before the training process starts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for _verb in (run, plan, inspect, verify, compare, convert, checksum, report, init, migrate):
    app.command()(_verb)
for _of_runs in (ls, info, tag, prune, upload):
    app.command()(_of_runs)
# What follows the command's name is the command's.
app.command(name="exec", context_settings={"allow_interspersed_args": False})(exec_)
app.add_typer(cache, name="cache")


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
