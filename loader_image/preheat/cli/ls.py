"""`preheat ls`: the checkpoints in a place, local or remote."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from preheat.cli.answer import answering, show, show_json
from preheat.cli.parameters import Json, LayoutName, Runs, shelf
from preheat.cli.s3 import READING, S3, s3_options

if TYPE_CHECKING:
    from preheat.runs.checkpoint import Checkpoint


@s3_options(READING)
def ls(
    place: Runs,
    layout: LayoutName = "auto",
    as_json: Json = False,
    *,
    s3: S3,
) -> None:
    """List the checkpoints in a place, the newest first, with what points to them. Reads no payload."""
    with answering(as_json):
        found = shelf(place, layout, **s3)
        pointed = found.pointed
    if as_json:
        checkpoints = [{**described(each), "knownAs": pointed.get(each.path, ())} for each in found.checkpoints]
        show_json({"place": found.listing.uri, "checkpoints": checkpoints})
    else:
        from preheat.cli.run_tables import listed

        show(*listed(found, time.time()))


def described(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a listing tells of a checkpoint, for programs."""
    return {
        "path": checkpoint.path,
        "layout": checkpoint.layout,
        "model": checkpoint.model,
        "info": checkpoint.info,
        "position": str(checkpoint.position) if checkpoint.position else None,
        "bytes": checkpoint.size,
        "modified": checkpoint.modified,
        "trainingState": checkpoint.training,
        "incomplete": checkpoint.incomplete,
    }
