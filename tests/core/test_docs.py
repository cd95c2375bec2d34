"""The documentation's tables say what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from preheat.cli import app
from preheat.errors import CheckpointError

DOCS = Path(__file__).parents[2] / "docs"


def every(error: type[CheckpointError]) -> Iterator[type[CheckpointError]]:
    yield error
    for child in error.__subclasses__():
        if child.__module__ == "preheat.errors":
            yield from every(child)


def test_every_reason_and_exit_code_is_documented_once():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| ([a-z ]+) \|", (DOCS / "errors.md").read_text(), re.MULTILINE)
    ends = {True: "goes on", False: "fails"}
    known = {(error.reason, str(error.exit_code), ends[error.continuable]) for error in every(CheckpointError)}
    assert sorted(rows) == sorted(known)


def test_reasons_and_exit_codes_are_unique():
    found = list(every(CheckpointError))
    assert len({error.reason for error in found}) == len({error.exit_code for error in found}) == len(found)


def test_every_verb_of_the_command_line_is_documented():
    verbs = {verb.name or verb.callback.__name__ for verb in app.registered_commands}
    verbs |= {group.name for group in app.registered_groups}
    assert set(re.findall(r"^\| \[?`(\w+) ", (DOCS / "cli.md").read_text(), re.MULTILINE)) == verbs
