"""`preheat verify`: whether a checkpoint is what it says."""

from __future__ import annotations

from typing import Annotated

import typer

from preheat.cli.answer import answering, progress, show, show_json
from preheat.cli.parameters import Anonymous, Endpoint, Json, Location, Profile, Region, VersionId, source


def verify(
    location: Location,
    sha256: Annotated[str | None, typer.Option(metavar="HEX", help="What the whole object must have.")] = None,
    finite: Annotated[bool, typer.Option(help="Whether NaN or infinity among the weights is an error.")] = True,
    as_json: Json = False,
    endpoint: Endpoint = None,
    region: Region = None,
    anonymous: Anonymous = False,
    version_id: VersionId = None,
    profile: Profile = None,
) -> None:
    """Read a checkpoint where it is and check sizes, every record's CRC-32 and finite values; write nothing."""
    with answering(as_json):
        from preheat.verbs.verification import verify_checkpoint

        where = source(
            location, endpoint=endpoint, region=region, anonymous=anonymous, version_id=version_id, profile=profile
        )
        found = verify_checkpoint(where, sha256=sha256, finite=finite, progress=progress("verifying"))
    if as_json:
        show_json(found.to_json())
        return
    from preheat.bundle.storage import megabytes
    from preheat.terminal import count_of, facts, said_checks

    looked = f"{count_of(found.tensors, 'tensor')}, {count_of(found.records, 'record')}"
    rows = [
        ("source", found.uri),
        ("version", found.version),
        ("format", f"{found.format} ({found.layout})"),
        ("checked", f"{said_checks(found.checks)}; {looked}"),
        ("read", f"{megabytes(found.fetched_bytes)} in {found.seconds:.2f} s"),
    ]
    show(facts(rows), "verified")
