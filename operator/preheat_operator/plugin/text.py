"""What the verbs say to people: wrapped and coloured on a terminal, whole plain lines elsewhere."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from preheat.amounts import size_text
from preheat.terminal import plain
from preheat_operator.loader_run import REUSED
from preheat_operator.plugin.explanation import Explanation
from preheat_operator.plugin.loaders import Given, Loader

_COLOURS = {
    "injected": "green", "loaded": "green", "loading": "cyan", "unknown": "yellow", "ignored": "yellow",
    "continued": "yellow", "missed": "red", "refused": "red", "failed": "red",
}  # fmt: skip
_HEADLINES = {
    "injected": ("will be injected", "injected"),
    "refused": ("will be refused", "refused"),
    "missed": ("will run without its loader", "missed"),
    "ignored": ("will not be injected", "not injected"),
    "unknown": ("cannot be told", "cannot be told"),
}
_MOST_PODS = 20


def show(parts: Iterable[RenderableType]) -> None:
    """Print for whoever reads standard output."""
    if sys.stdout.isatty():
        Console(highlight=False).print(*parts, sep="\n")
    else:
        typer.echo(as_lines(parts), nl=False)


def as_lines(parts: Iterable[RenderableType]) -> str:
    """Text without colours, each sentence on one line, nothing behind it."""
    wide = Console(file=io.StringIO(), width=100_000, highlight=False, color_system=None)
    for part in parts:
        wide.print(part)
    printed: str = wide.file.getvalue()  # type: ignore[attr-defined]
    return "".join(f"{line.rstrip()}\n" for line in printed.splitlines())


def coloured(word: str, of: str = "") -> Text:
    """A word in the colour of what it, or `of`, means."""
    return Text(word, _COLOURS.get(of or word, ""))


def grid(gap: int, *wraps: bool) -> Table:
    """A table without lines; says of each column whether it wraps on a narrow terminal. Nothing is cut."""
    table = Table.grid(padding=(0, gap, 0, 0))
    for each in wraps:
        table.add_column(no_wrap=not each, overflow="fold")
    return table


def facts(rows: Iterable[tuple[str, str | Text | None]]) -> Table:
    """Names and what is known of them, indented; what is not known is left out."""
    table = grid(2, False, False, True)
    for name, value in rows:
        if value:
            table.add_row("", name, value if isinstance(value, Text) else plain(value))
    return table


def explained(found: Iterable[Explanation]) -> Iterator[RenderableType]:
    """Explanations one below the other; the pods of a workload as a table."""
    for place, (workload, group) in enumerate(groupby(found, lambda each: each.workload)):
        for position, each in enumerate(() if workload else group):
            if place or position:
                yield ""
            yield from _explained(each)
        if workload:
            yield ""
            yield _pods(list(group))


def loader_said(loader: Loader) -> str:
    """`loaded in 1.1 s, 220.6 MB read, 200.5 MB/s`."""
    took = f" {'for' if loader.phase == 'loading' else 'in'} {loader.seconds:.1f} s" if loader.seconds else ""
    if loader.outcome == REUSED:
        took += ", the bundle was there already"
    read = f", {size_text(loader.fetched_bytes)} read" if loader.fetched_bytes else ""
    rate = f", {size_text(loader.bytes_per_second)}/s" if loader.bytes_per_second else ""
    runs = f", run {loader.runs}" if loader.runs > 1 else ""
    return f"{loader.phase}{took}{read}{rate}{runs}"


def _explained(found: Explanation) -> Iterator[RenderableType]:
    headline = _HEADLINES[found.verdict][found.exists]
    where = f" ({found.path})" if found.path not in ("", "spec.template") else ""
    yield Text.assemble(f"{found.subject}{where} in {found.namespace}: ", coloured(headline, found.verdict))
    yield facts(
        [
            ("rule", found.rule),
            ("why", found.message),
            ("do", found.remedy),
            ("pipeline", _pipeline_said(found)),
            *(_given(found.given, found.settings_from) if found.given else ()),
            *(_loader(found.loader) if found.loader else ()),
            *(("caution", each) for each in found.cautions),
            *(("note", each) for each in found.notes),
        ]
    )


def _pipeline_said(found: Explanation) -> str | None:
    if not found.pipeline:
        return None
    said = [found.pipeline.name]
    generation = (found.given and found.given.generation) or found.pipeline.generation
    if generation:
        said.append(f"generation {generation}")
    if found.pipeline.ready:
        word = {"True": "ready", "False": "not ready"}.get(found.pipeline.ready, "not known to be ready")
        said.append(f"{word}: {found.pipeline.message}")
    return ", ".join(said)


def _given(given: Given, origin: str) -> Iterator[tuple[str, str]]:
    yield "version", given.version or "what the loader finds: no check has pinned one"
    yield "containers", ", ".join(given.containers)
    yield "shim", given.shim
    yield "image", f"{given.image}, from {origin}" if origin else given.image


def _loader(loader: Loader) -> Iterator[tuple[str, str | Text | None]]:
    yield "loader", coloured(loader_said(loader), loader.phase)
    yield "read", " ".join(filter(None, (loader.uri, loader.version and f"at version {loader.version}")))
    yield "failure", f"{loader.reason}: {loader.message}" if loader.reason else None
    yield "do", loader.remedy


def _pods(pods: list[Explanation]) -> Table:
    table = grid(3, True, False, True, True)
    table.add_row("POD", "VERDICT", "LOADER", "WHY")
    for each in pods[:_MOST_PODS]:
        loader = coloured(loader_said(each.loader), each.loader.phase) if each.loader else ""
        why = "" if each.fine else plain(_why(each))
        table.add_row(plain(each.subject.partition("/")[2]), coloured(each.verdict), loader, why)
    if len(pods) > _MOST_PODS:
        table.add_row(f"... and {len(pods) - _MOST_PODS} more; -o json has them all")
    return table


def _why(found: Explanation) -> str:
    if found.loader and found.loader.reason:
        return f"{found.loader.reason}: {found.loader.message}"
    return found.rule
