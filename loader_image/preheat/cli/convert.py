"""`preheat convert`: a checkpoint of any format as safetensors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preheat.cli.answer import answering, progress, show, show_json
from preheat.cli.parameters import Bandwidth, Json, Location, held_to, source
from preheat.cli.s3 import READING_OBJECT, S3, s3_options
from preheat.errors import CheckpointConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from preheat.convert import Convert
    from preheat.verbs.conversion import Converted

ARROW = "=>"

Regexes = list[str] | None


@s3_options(READING_OBJECT)
def convert(
    location: Location,
    target: Annotated[Path, typer.Argument(metavar="TARGET.safetensors", help="The file to write.")],
    select: Annotated[Regexes, typer.Option(metavar="REGEX", help="Take only tensors with it in their name.")] = None,
    exclude: Annotated[Regexes, typer.Option(metavar="REGEX", help="Leave out tensors with it in their name.")] = None,
    strip_prefix: Annotated[Regexes, typer.Option(metavar="PREFIX", help="Take it off the names.")] = None,
    rename: Annotated[Regexes, typer.Option(metavar="REGEX=>TEXT", help="Replace every match in the names.")] = None,
    add_prefix: Annotated[str | None, typer.Option(metavar="PREFIX", help="Put it before every name.")] = None,
    dtype: Annotated[
        Regexes,
        typer.Option(
            metavar="[REGEX=>]DTYPE",
            help="float32, float16, bfloat16 or labelled, for floating weights; with REGEX for some, unchanged too.",
        ),
    ] = None,
    sha256: Annotated[str | None, typer.Option(metavar="HEX", help="What the whole object must have.")] = None,
    crc32: Annotated[bool, typer.Option(help="Whether the CRC-32 of every record is compared.")] = True,
    finite: Annotated[bool, typer.Option(help="Whether NaN or infinity among the weights is an error.")] = True,
    shard_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Such as 5GB: several files of that size, with an index.")
    ] = None,
    bandwidth: Bandwidth = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    as_json: Json = False,
    *,
    s3: S3,
) -> None:
    """Write the weights of a checkpoint to one safetensors file: only those, checked on their way, all or nothing.

    Options that change names and values mean what the fields of the `convert` stage mean; lists repeat the option.
    """
    with answering(as_json), held_to(bandwidth):
        from preheat.amounts import bytes_of
        from preheat.verbs.conversion import convert_checkpoint

        where = source(location, **s3)
        rules = [_rule(text) for text in rename or ()]
        stage = _stage(
            select=select, exclude=exclude, strip_prefix=strip_prefix, rename=rules, add_prefix=add_prefix,
            **_dtypes(dtype or ()),
        )  # fmt: skip
        found = convert_checkpoint(
            where, target, stage,
            sha256=sha256, crc32=crc32, finite=finite, shard_size=bytes_of(shard_size) if shard_size else None,
            force=force, progress=progress("converting"),
        )  # fmt: skip
    if as_json:
        show_json(found.to_json())
    else:
        show(_table(found))
        typer.echo(str(found.file.absolute()))


def _stage(**changes: Any) -> Convert | None:
    from preheat.convert import Convert

    wanted = {name: value for name, value in changes.items() if value not in (None, [])}
    return Convert(**wanted) if wanted else None


def _rule(text: str) -> dict[str, str]:
    pattern, arrow, replacement = text.rpartition(ARROW)
    if not arrow:
        raise CheckpointConfigError(
            f"--rename {text!r:.80} has no {ARROW}", remedy=r"Write it like '^layers\.=>blocks.'"
        )
    return {"pattern": pattern, "replacement": replacement}


def _dtypes(texts: Iterable[str]) -> dict[str, Any]:
    """`float16` is for all, `norm=>float32` for some of them."""
    parted = [text.rpartition(ARROW) for text in texts]
    if len(of_all := [dtype for _, arrow, dtype in parted if not arrow]) > 1:
        raise CheckpointConfigError(f"--dtype is given for all weights twice: {', '.join(of_all)}")
    some = [{"pattern": pattern, "dtype": dtype} for pattern, arrow, dtype in parted if arrow]
    return {"dtype": of_all[0] if of_all else None, "dtypes": some}


def _table(found: Converted) -> Table:
    from preheat.amounts import count_of, parameters_text, size_text
    from preheat.terminal import facts, said_checks

    rows = [
        ("source", found.uri),
        ("version", found.version),
        ("format", f"{found.format} ({found.layout})"),
        ("tensors", f"{found.tensors}, {parameters_text(found.parameters)}, {size_text(found.output_bytes)}"),
        ("left out", f"{count_of(found.left_tensors, 'tensor')}, {size_text(found.left_bytes)}"),
        ("excluded", f"{count_of(found.excluded_tensors, 'weight')}, {size_text(found.excluded_bytes)}"),
        ("checked", f"{said_checks(found.checks)}; {count_of(found.records, 'record')}"),
        ("read", f"{size_text(found.fetched_bytes)} in {found.seconds:.2f} s"),
    ]
    if found.shards:
        rows.insert(4, ("files", f"{len(found.shards)} and their index"))
    if found.aliases:
        tied = ", ".join(f"{alias} = {name}" for alias, name in list(found.aliases.items())[:4])
        more = ", ..." if len(found.aliases) > 4 else ""
        rows.insert(4, ("tied, not in the file", f"{len(found.aliases)}: {tied}{more}"))
    return facts(rows)
