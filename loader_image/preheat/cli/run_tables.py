"""What `preheat ls`, `info` and `prune` show to a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from preheat.amounts import ago, count_of, parameters_text, size_text
from preheat.terminal import facts, plain

if TYPE_CHECKING:
    from preheat.runs.checkpoint import Checkpoint
    from preheat.runs.retention import Ruling
    from preheat.runs.shelf import Shelf


def listed(shelf: Shelf, now: float) -> Iterator[RenderableType]:
    """A line for each checkpoint, the newest first, and a sentence that counts them."""
    if shelf.checkpoints:
        table = _table("checkpoint", "size", "age", "training", "known as")
        for each in shelf.checkpoints:
            table.add_row(*_row(each, now), _training(each), plain(", ".join(_names(shelf, each))))
        yield table
    size = sum(each.size for each in shelf.checkpoints)
    yield f"{count_of(len(shelf.checkpoints), 'checkpoint')}, {size_text(size)}"


def described(shelf: Shelf, checkpoint: Checkpoint, now: float) -> Iterator[RenderableType]:
    """What is known of one checkpoint."""
    manifest = shelf.manifest(checkpoint)
    rows = [
        ("checkpoint", f"{shelf.listing.uri}{checkpoint.path}"),
        ("layout", checkpoint.layout),
        ("size", f"{size_text(checkpoint.size)} in {count_of(len(checkpoint.files), 'file')}"),
        ("saved", f"{ago(now - checkpoint.modified)} ago"),
        ("position", str(checkpoint.position or "not told by its name")),
        ("model", " ".join(filter(None, (checkpoint.model, checkpoint.info))) or "not told by its name"),
        ("training state", _training(checkpoint)),
        ("known as", ", ".join(_names(shelf, checkpoint)) or "-"),
    ]
    if checkpoint.incomplete:
        rows.append(("not complete", checkpoint.incomplete))
    if manifest:
        totals = manifest.totals
        rows += [("tensors", f"{totals.tensors}, {parameters_text(totals.parameters)}"), ("by", manifest.preheat)]
    rows += [(f"metric {name}", f"{value:g}") for name, value in sorted(shelf.metrics(checkpoint).items())]
    yield facts(rows)


def ruled(rulings: Sequence[Ruling], now: float, done: bool) -> Iterator[RenderableType]:
    """What goes, and why each of the others stays."""
    if rulings:
        table = _table("checkpoint", "size", "age", "", "because")
        for ruling in rulings:
            verdict = "stays" if ruling.stays else "removed" if done else "goes"
            table.add_row(
                *_row(ruling.checkpoint, now), verdict, plain("; ".join(ruling.reasons) or "nothing keeps it")
            )
        yield table
    going = [ruling.checkpoint for ruling in rulings if not ruling.stays]
    size = size_text(sum(each.size for each in going))
    left = f"{len(rulings) - len(going)} stay"
    if done:
        yield f"removed {count_of(len(going), 'checkpoint')}, {size}; {left}"
    elif going:
        yield f"{count_of(len(going), 'checkpoint')}, {size}, would go; {left}. Nothing was removed: add --yes"
    else:
        yield f"nothing would go; {left}"


def _row(checkpoint: Checkpoint, now: float) -> tuple[str | Text, ...]:
    what = plain(checkpoint.path)
    if checkpoint.incomplete:
        what = Text("\n").join([what, plain(f"not complete: {checkpoint.incomplete}")])
    return what, size_text(checkpoint.size), ago(now - checkpoint.modified) if checkpoint.modified else "-"


def _training(checkpoint: Checkpoint) -> str:
    return {True: "yes", False: "no", None: "not known"}[checkpoint.training]


def _names(shelf: Shelf, checkpoint: Checkpoint) -> list[str]:
    called = [checkpoint.tag] if checkpoint.tag and not checkpoint.position else []
    return [*called, *shelf.pointed.get(checkpoint.path, ())]


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold", min_width=24)
    for name in others:
        table.add_column(name, overflow="fold", no_wrap=name in ("size", "age"))
    return table
