"""The table of faults names tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
ROWS = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", (Path(__file__).parent / "README.md").read_text(), re.MULTILINE)
MEASURED = {"25"}  # by a benchmark


def test_every_fault_has_its_row() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 34))


@pytest.mark.parametrize(("number", "proofs"), ROWS, ids=[number for number, _ in ROWS])
def test_what_proves_a_row_is_a_test(number: str, proofs: str) -> None:
    nodes = re.findall(r"`(\S+)::(\S+)`", proofs)
    assert nodes or number in MEASURED
    for file, name in nodes:
        found = ast.walk(ast.parse((REPO / file).read_text()))
        assert name in {each.name for each in found if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}, file
