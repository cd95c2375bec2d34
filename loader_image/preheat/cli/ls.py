"""`preheat ls`: the checkpoints in a place, local or remote."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from preheat.cli.answer import answering, show, show_json
from preheat.cli.parameters import Anonymous, Endpoint, Json, LayoutName, Profile, Region, Runs, shelf

if TYPE_CHECKING:
    from preheat.runs.checkpoint import Checkpoint


def ls(
    place: Runs,
    layout: LayoutName = "auto",
    as_json: Json = False,
    endpoint: Endpoint = None,
    region: Region = None,
    anonymous: Anonymous = False,
    profile: Profile = None,
) -> None:
    """List the checkpoints in a place, the newest first, with what points to them. Reads no payload."""
    with answering(as_json):
        found = shelf(place, layout, endpoint=endpoint, region=region, anonymous=anonymous, profile=profile)
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
