"""`preheat prune`: removes the checkpoints of a place that nothing keeps."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from preheat.cli.answer import answering, show, show_json
from preheat.cli.parameters import Json, LayoutName, Runs, shelf
from preheat.cli.s3 import S3, WRITING, s3_options


@s3_options(WRITING)
def prune(
    place: Runs,
    last: Annotated[int, typer.Option("--keep-last", metavar="N", help="The newest N of each model.")] = 0,
    best: Annotated[int, typer.Option("--keep-best", metavar="N", help="The best N by --metric.")] = 0,
    metric: Annotated[str, typer.Option(metavar="NAME", help="A metric; lower is better, unless --highest.")] = "",
    highest: Annotated[bool, typer.Option("--highest", help="Higher values of the metric are better.")] = False,
    every: Annotated[
        str, typer.Option("--keep-every", metavar="PERIOD", help="The first of every E10, U1000 or S100000: for good.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, only say what would go.")] = False,
    layout: LayoutName = "auto",
    as_json: Json = False,
    *,
    s3: S3,
) -> None:
    """Remove the checkpoints that no rule keeps. Never one that is tagged or in use, nor the last good one."""
    with answering(as_json):
        from preheat.runs.removal import remove
        from preheat.runs.retention import Retention, rule

        retention = Retention(last, best, metric, highest, every)
        found = shelf(place, layout, **s3)
        rulings = rule(found.checkpoints, retention, found.known(metrics=bool(best)))
        if yes:
            remove(found, [ruling.checkpoint for ruling in rulings if not ruling.stays])
    if as_json:
        show_json(
            {
                "outcome": "pruned" if yes else "planned",
                "place": found.listing.uri,
                "checkpoints": [
                    {"path": ruling.checkpoint.path, "stays": ruling.stays, "because": ruling.reasons}
                    for ruling in rulings
                ],
            }
        )
    else:
        from preheat.cli.run_tables import ruled

        show(*ruled(rulings, time.time(), yes))
