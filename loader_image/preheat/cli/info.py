"""`preheat info`: one checkpoint of a place."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from preheat.cli.answer import answering, show, show_json
from preheat.cli.ls import described
from preheat.cli.parameters import Json, LayoutName, Runs, shelf
from preheat.cli.s3 import READING, S3, s3_options
from preheat.errors import CheckpointNotFoundError

if TYPE_CHECKING:
    from preheat.runs.checkpoint import Checkpoint
    from preheat.runs.shelf import Shelf


@s3_options(READING)
def info(
    place: Runs,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Name, path or tag; default: the newest complete one.")
    ] = None,
    layout: LayoutName = "auto",
    as_json: Json = False,
    *,
    s3: S3,
) -> None:
    """Tell what is known of one checkpoint: position, metrics, size, what points to it. Reads no payload."""
    with answering(as_json):
        found = shelf(place, layout, **s3)
        one = found.one(name) if name else _newest(found)
        metrics, pointed = found.metrics(one), found.pointed.get(one.path, ())
    if as_json:
        show_json({"place": found.listing.uri, **described(one), "metrics": metrics, "knownAs": pointed})
    else:
        from preheat.cli.run_tables import described as shown

        show(*shown(found, one, time.time()))


def _newest(shelf: Shelf) -> Checkpoint:
    for each in shelf.checkpoints:
        if not each.incomplete:
            return each
    raise CheckpointNotFoundError(f"{shelf.listing.uri} has no complete checkpoint", remedy="`preheat ls` says why")
