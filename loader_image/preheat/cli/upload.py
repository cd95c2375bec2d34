"""`preheat upload`: finished checkpoints of this machine to where they outlive it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preheat.cli.answer import answering, progress, show, show_json
from preheat.cli.parameters import Json, source
from preheat.cli.s3 import S3, WRITING, s3_options
from preheat.errors import CheckpointNotFoundError
from preheat.uploading.target import Verify

if TYPE_CHECKING:
    from preheat.stage import CheckpointSource
    from preheat.uploading.account import Account


@s3_options(WRITING)
def upload(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder of checkpoints, one checkpoint, or a file.")],
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="s3://bucket/prefix/, a URL or a folder, for what is in PATH."),
    ],
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until interrupted or terminated; then send the rest.")
    ] = False,
    settle: Annotated[
        str, typer.Option(metavar="TIME", help="With --follow: send files of other programs after so long unchanged.")
    ] = "30s",
    verify: Annotated[
        Verify, typer.Option(help="What is compared where the target tells no checksum: size reads nothing back.")
    ] = "checksum",
    as_json: Json = False,
    *,
    s3: S3,
) -> None:
    """Upload finished checkpoints; run again, it sends what is missing. A manifest goes last."""
    with answering(as_json):
        to = source(_as_folder(target), **s3)
        account = _upload(path, to, follow, settle, verify)
    if as_json:
        show_json(account.to_json())
    else:
        show(_said(account))
    if account.error:
        with answering(False):
            raise account.error


def _as_folder(target: str) -> str:
    """A target is a folder: its slash may be left out."""
    where, mark, query = target.partition("?")
    return (where if where.endswith("/") else f"{where}/") + mark + query


def _upload(path: Path, to: CheckpointSource, following: bool, settle: str, verify: Verify) -> Account:
    from preheat.amounts import seconds_of
    from preheat.blob import Patience
    from preheat.uploading.ending import Ending
    from preheat.uploading.finished import Rest, is_one
    from preheat.uploading.shipping import Shipping, follow
    from preheat.uploading.targets import target_of

    path = path.expanduser().absolute()
    if not following and not path.exists():
        raise CheckpointNotFoundError(f"there is no {path}", remedy="Check the path")
    one = path.exists() and is_one(path)
    goal = target_of(to, Patience(), verify)
    below = path.name if one else ""
    shipping = Shipping(path.parent if one else path, goal, progress("uploading"), below)
    try:
        if following:
            ending = Ending().by(signal.SIGINT, signal.SIGTERM)
            follow(shipping, Rest(seconds_of(settle)), ending)
        else:
            shipping.look(Rest(0))
    finally:
        goal.close()
    return shipping.account


def _said(account: Account) -> str:
    """What was sent, what was there, and what could not be sent."""
    from preheat.amounts import count_of, size_text

    parts = [f"sent {count_of(account.files, 'file')}, {size_text(account.bytes)}"]
    parts += [f"already there: {account.present}"] if account.present else []
    parts += [f"not sent: {', '.join(account.waiting)}"] if account.waiting else []
    return f"{account.target}: {'; '.join(parts)}"
