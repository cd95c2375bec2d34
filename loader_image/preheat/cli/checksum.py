"""`preheat checksum`: of a whole object, wherever it is."""

from __future__ import annotations

from typing import Annotated

import typer

from preheat.cli.answer import answering, progress, show_json
from preheat.cli.parameters import Json, Location, source
from preheat.cli.s3 import READING_OBJECT, S3, s3_options


@s3_options(READING_OBJECT)
def checksum(
    location: Location,
    algorithm: Annotated[
        str, typer.Option(help="sha256, sha512, sha1, md5, blake2b, sha3_256, crc32 or crc64nvme.")
    ] = "sha256",
    as_json: Json = False,
    *,
    s3: S3,
) -> None:
    """Print the checksum of a file or object, in the form of `sha256sum`."""
    with answering(as_json):
        from preheat.verbs.digest import calculate_checksum

        where = source(location, **s3)
        found = calculate_checksum(where, algorithm, progress=progress("reading"))
    if as_json:
        show_json({"uri": where.uri, "algorithm": algorithm, "checksum": found})
    else:
        typer.echo(f"{found}  {where.uri}")
