"""`preheat tag`: a name for a checkpoint, which then stays."""

from __future__ import annotations

from typing import Annotated

import typer

from preheat.cli.answer import answering, show, show_json
from preheat.cli.parameters import Json, LayoutName, Runs, shelf
from preheat.cli.s3 import S3, WRITING, s3_options


@s3_options(WRITING)
def tag(
    place: Runs,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The checkpoint's name, path, or another tag of it.")],
    tag: Annotated[str, typer.Argument(metavar="TAG", help="Such as release-1; a run's `select` takes it, too.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take the tag away.")] = False,
    layout: LayoutName = "auto",
    as_json: Json = False,
    *,
    s3: S3,
) -> None:
    """Give a checkpoint a name that protects it from `prune`, or take the name away."""
    with answering(as_json):
        found = shelf(place, layout, **s3)
        one = found.one(name)
        path = found.untag(one, tag) if remove else found.tag(one, tag)
    if as_json:
        show_json({"outcome": "removed" if remove else "tagged", "checkpoint": one.path, "pointer": path})
    else:
        show(f"removed {path}" if remove else f"{one.path} is {tag} now: {path}")
