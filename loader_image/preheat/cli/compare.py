"""`preheat compare`: how two checkpoints differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from preheat.cli.answer import answering, progress, show, show_json
from preheat.cli.parameters import Anonymous, Endpoint, Json, Profile, Region, source

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
    profile: Profile = None,
) -> None:
    """Compare the weights of two checkpoints: names, shapes, dtypes, values. Exits 0 when equal, 3 when not."""
    with answering(as_json):
        from preheat.verbs.comparison import compare as look

        s3 = {"endpoint": endpoint, "region": region, "anonymous": anonymous, "profile": profile}
        one, other = _sources(first, second, s3)
        found = look(one, other, values=values, progress=progress("comparing") if values else None)
    if as_json:
        show_json(found.to_json())
    else:
        from preheat.tables import compared

        show(*compared(found))
    if not found.equal:
        raise typer.Exit(DIFFERENT)


def _sources(first: str, second: str, s3: dict[str, Any]) -> list[CheckpointSource]:
    """Both sources; the options of S3 are for those that are in S3."""
    in_s3 = [where.lower().startswith("s3://") for where in (first, second)]
    return [
        source(where, **(s3 if is_there or not any(in_s3) else {}))
        for where, is_there in zip((first, second), in_s3, strict=True)
    ]
