"""Listings of runs, made up: names, times and sizes are all that a selection looks at."""

from __future__ import annotations

from collections.abc import Iterable

from preheat.runs import layouts
from preheat.runs.checkpoint import Found, Pointer
from preheat.runs.listing import Entry
from preheat.runs.selection import Selection, Wanted


def listed(*paths: str, at: float = 100.0, size: int = 10) -> list[Entry]:
    """Files in the order in which they were written, a second after each other."""
    return [Entry(path, size, at + second) for second, path in enumerate(paths)]


def found(entries: Iterable[Entry], layout: str = "auto") -> Found:
    return layouts.find(list(entries), layout)


def selected(entries: Iterable[Entry], select: str = "latest", layout: str = "auto", **wanted: object) -> Selection:
    """What a selector means where no pointer has to be read."""
    return Selection.of(found(entries, layout), Wanted(select, **wanted), "/run/", unread)  # type: ignore[arg-type]


def names(selected: Selection) -> list[str]:
    return [checkpoint.path for checkpoint in selected.checkpoints]


def unread(pointer: Pointer) -> str:
    raise AssertionError(f"{pointer.entry.path} was read")
