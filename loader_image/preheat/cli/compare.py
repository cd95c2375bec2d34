"""`preheat compare`: how two checkpoints differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from preheat.cli.answer import answering, progress, show, show_json
from preheat.cli.parameters import Json, source
from preheat.cli.s3 import READING, S3, s3_options

if TYPE_CHECKING:
    from preheat.stage import CheckpointSource

DIFFERENT = 3  # exit code; no error has it


@s3_options(READING)
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="The checkpoint to compare with.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The checkpoint that is described.")],
    values: Annotated[bool, typer.Option("--values", help="Read both and compare every value.")] = False,
    as_json: Json = False,
    *,
    s3: S3,
) -> None:
    """Compare the weights of two checkpoints: names, shapes, dtypes, values. Exits 0 when equal, 3 when not."""
    with answering(as_json):
        from preheat.verbs.comparison import compare as look

        one, other = _sources(first, second, s3)
        found = look(one, other, values=values, progress=progress("comparing") if values else None)
    if as_json:
        show_json(found.to_json())
    else:
        from preheat.tables import compared

        show(*compared(found))
    if not found.equal:
        raise typer.Exit(DIFFERENT)


def _sources(first: str, second: str, s3: S3) -> list[CheckpointSource]:
    """Both sources; the options of S3 are for those that are in S3."""
    in_s3 = [where.lower().startswith("s3://") for where in (first, second)]
    return [
        source(where, **(s3 if is_there or not any(in_s3) else {}))
        for where, is_there in zip((first, second), in_s3, strict=True)
    ]
