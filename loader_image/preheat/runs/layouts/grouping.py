"""Entries put together by the folder that they are in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from preheat.runs.listing import Entry


def by_folder(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """The files right in each folder, in their order."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.folder, []).append(entry)
    return found


def below(entries: Iterable[Entry], folder: str) -> tuple[Entry, ...]:
    """The files of a folder at any depth."""
    return tuple(entry for entry in entries if entry.path.startswith(f"{folder}/"))


def empty_one(files: Sequence[Entry]) -> str:
    """Which of the files of a checkpoint has no bytes, said as the reason why it is incomplete."""
    return next((f"{entry.name} is empty" for entry in files if not entry.size), "")
