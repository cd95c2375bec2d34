"""`preheat inspect`: what is in a checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from preheat.cli.answer import answering, show, show_json
from preheat.cli.parameters import Json, Location, source
from preheat.cli.s3 import READING_OBJECT, S3, s3_options


@s3_options(READING_OBJECT)
def inspect(
    location: Location,
    depth: Annotated[int, typer.Option(min=1, metavar="N", help="Levels of the tree of names.")] = 3,
    match: Annotated[str, typer.Option(metavar="REGEX", help="Only tensors whose name contains this.")] = "",
    as_json: Json = False,
    *,
    s3: S3,
) -> None:
    """Show tensors, shapes, dtypes, sizes and metadata of a checkpoint, without reading its payload."""
    with answering(as_json):
        from preheat.verbs.inspection import inspect as look

        where = source(location, **s3)
        found = look(where, match=match)
    if as_json:
        show_json(found.to_json())
    else:
        from preheat.tables import inspected, tree

        show(inspected(found), tree(found.tensors, depth))
