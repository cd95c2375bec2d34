"""`preheat verify`: whether a checkpoint is what it says, and what you say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preheat.cli.answer import answering, progress, show, show_json
from preheat.cli.parameters import Json, Location, source
from preheat.cli.s3 import READING_OBJECT, S3, s3_options
from preheat.errors import CheckpointConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from preheat.verbs.verification import Verified

_SHAPE = re.compile(r"^(.+)=((?:\d+x)*\d+|)$")


@s3_options(READING_OBJECT)
def verify(
    location: Location,
    sha256: Annotated[str | None, typer.Option(metavar="HEX", help="What the whole object must have.")] = None,
    md5: Annotated[str | None, typer.Option(metavar="HEX", help="Likewise.")] = None,
    crc64nvme: Annotated[str | None, typer.Option(metavar="TEXT", help="Likewise, as S3 shows it or in hex.")] = None,
    etag: Annotated[str | None, typer.Option(metavar="TEXT", help="What the server must call this version.")] = None,
    finite: Annotated[bool, typer.Option(help="Whether NaN or infinity among the weights is an error.")] = True,
    tensors: Annotated[int | None, typer.Option(metavar="N", help="How many weights there must be.")] = None,
    parameters: Annotated[int | None, typer.Option(metavar="N", help="How many elements in all of them.")] = None,
    name: Annotated[list[str] | None, typer.Option(metavar="REGEX", help="That some weight's name must hold.")] = None,
    shape: Annotated[list[str] | None, typer.Option(metavar="NAME=AxB", help="That a weight must have.")] = None,
    public_key: Annotated[Path | None, typer.Option(metavar="PEM", help="Whose signature there must be.")] = None,
    authorities: Annotated[Path | None, typer.Option(metavar="PEM", help="Who must vouch for the signer.")] = None,
    signature: Annotated[str, typer.Option(metavar="NAME", help="Of the signature beside it.")] = "model.sig",
    warn_only: Annotated[list[str] | None, typer.Option(metavar="CHECK", help="That only warns, by name.")] = None,
    as_json: Json = False,
    *,
    s3: S3,
) -> None:
    """Read a checkpoint where it is and check sizes, every record's CRC-32 and finite values; write nothing."""
    with answering(as_json):
        from preheat.verbs.verification import verify_checkpoint

        where = source(location, **s3)
        stage: dict[str, Any] = {
            **{"sha256": sha256, "md5": md5, "crc64nvme": crc64nvme, "etag": etag, "finite": finite},
            "expect": _expected(tensors, parameters, name, shape),
            "signature": _signature(public_key, authorities, signature),
            "warn_only": warn_only or (),
        }
        found = verify_checkpoint(where, progress=progress("verifying"), **stage)
    if as_json:
        show_json(found.to_json())
    else:
        show(_table(found), "verified")


def _expected(
    tensors: int | None, parameters: int | None, names: list[str] | None, shapes: list[str] | None
) -> dict[str, Any] | None:
    given = {
        "tensors": tensors,
        "parameters": parameters,
        "names": names or (),
        "shapes": dict(map(_shape, shapes)) if shapes else None,
    }
    return given if any(value not in (None, ()) for value in given.values()) else None


def _shape(text: str) -> tuple[str, list[int]]:
    found = _SHAPE.match(text)
    if not found:
        raise CheckpointConfigError(f"--shape {text!r:.120} is no shape", remedy="Write --shape head.weight=10x768")
    return found[1], [int(length) for length in found[2].split("x") if length]


def _signature(public_key: Path | None, authorities: Path | None, name: str) -> dict[str, Any] | None:
    given = {"public_key": public_key, "authorities": authorities}
    if public_key is None and authorities is None:
        return None
    try:
        return {"file": name, **{what: path.read_text() for what, path in given.items() if path}}
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointConfigError(f"{public_key or authorities} cannot be read: {error}") from error


def _table(found: Verified) -> Table:
    from preheat.amounts import count_of, size_text
    from preheat.terminal import facts, said_checks

    looked = f"{count_of(found.tensors, 'tensor')}, {count_of(found.records, 'record')}"
    return facts(
        [
            ("source", found.uri),
            ("version", found.version),
            ("format", f"{found.format} ({found.layout})"),
            ("checked", f"{said_checks(found.checks)}; {looked}"),
            *(("warning", warning) for warning in found.warnings),
            ("read", f"{size_text(found.fetched_bytes)} in {found.seconds:.2f} s"),
        ]
    )
