"""`preheat compare`: how two checkpoints differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from preheat.cli.answer import answering, progress, show, show_json
from preheat.cli.parameters import Anonymous, Endpoint, Json, Region, source

if TYPE_CHECKING:
    from preheat.stage import CheckpointSource

DIFFERENT = 3  # exit code; no error has it


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="The checkpoint to compare with.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The checkpoint that is described.")],
    values: Annotated[bool, typer.Option("--values", help="Read both and compare every value.")] = False,
    as_json: Json = False,
    endpoint: Endpoint = None,
    region: Region = None,
    anonymous: Anonymous = False,
) -> None:
    """Compare the weights of two checkpoints: names, shapes, dtypes, values. Exits 0 when equal, 3 when not."""
    with answering(as_json):
        from preheat.verbs.comparison import compare as look

        one, other = _sources(first, second, (endpoint, region, anonymous))
        found = look(one, other, values=values, progress=progress("comparing") if values else None)
    if as_json:
        show_json(found.to_json())
    else:
        from preheat.tables import compared

        show(*compared(found))
    if not found.equal:
        raise typer.Exit(DIFFERENT)


def _sources(first: str, second: str, options: tuple[str | None, str | None, bool]) -> list[CheckpointSource]:
    """Both sources; the options of S3 are for those that are in S3."""
    in_s3 = [where.lower().startswith("s3://") for where in (first, second)]
    return [
        source(where, *(options if is_there or not any(in_s3) else (None, None, False)))
        for where, is_there in zip((first, second), in_s3, strict=True)
    ]
