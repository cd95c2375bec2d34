"""The guides' tables have every key that the code knows, in its words; what they show is run with the other pages."""

import os
from itertools import groupby
from pathlib import Path

import pytest

from preheat.migrate import SYSTEMS

DOCS = Path(__file__).parents[2] / "docs" / "migrate"
BEGIN, END = "## Keys\n\n", "\n## Traps"


def table(system):
    """Keys that become the same have a row together."""
    rows = ["| key | becomes | |", "|---|---|---|"]
    for (becomes, advice), keys in groupby(system.keys, lambda key: (key.becomes, key.advice)):
        names = ", ".join(f"`{key.path}`" for key in keys)
        rows.append(f"| {names} | {becomes} | {advice} |".replace("  |", " |"))
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_a_guide_has_every_key(name):
    path = DOCS / f"{name}.md"
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    text = before + BEGIN + table(SYSTEMS[name]) + END + after
    if os.environ.get("PREHEAT_UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text
