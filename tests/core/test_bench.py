"""The benchmark writes its tables into the documentation: a place for every part, and lines that fit."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))
try:
    from results import Figure, write_tables
finally:
    sys.path.remove(str(ROOT / "bench"))

DOCUMENT = ROOT / "docs" / "benchmarks.md"


def test_every_part_of_the_benchmark_has_its_place_in_the_documentation():
    parts = re.findall(r'^    "([\w-]+)": Part\(', (ROOT / "bench" / "__main__.py").read_text(), re.MULTILINE)
    assert parts
    own = [
        part for file in (ROOT / "bench").glob("*.py") for part in re.findall('^PART = "(.+)"$', file.read_text(), re.M)
    ]
    places = [*parts, "machine", *own, *(f"{part}-machine" for part in own)]
    assert sorted(re.findall(r"<!-- bench ([\w-]+) -->", DOCUMENT.read_text())) == sorted(places)


def test_a_run_replaces_its_own_tables_only(tmp_path):
    document = tmp_path / "page.md"
    places = {"whole": "old\n", "tls": "kept\n", "machine": ""}
    document.write_text("".join(f"a\n<!-- bench {part} -->\n{text}<!-- end -->\n" for part, text in places.items()))
    figures = [
        Figure("2 GiB over S3, Preheat", 1.234, "s", "verified"),
        Figure("2 GiB over S3, boto3", 2.0, "x faster", "words " * 40, ">= 2.5"),
        Figure("2 GiB over S3, memory", 0, "MiB", goal="<= 0"),
    ]
    write_tables({"whole": figures}, "two cores", document)
    text = document.read_text()
    assert "old" not in text
    assert "kept" in text
    assert "two cores" in text
    assert "| Preheat | 1.23 s | verified |  |  |" in text
    assert "| >= 2.5 | missed by 20% |" in text
    assert "| memory | 0 MiB |  | <= 0 | met |" in text
    assert max(map(len, text.splitlines())) <= 140


def test_a_long_name_does_not_keep_a_table_from_being_written(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("<!-- bench ranges -->\n<!-- end -->\n<!-- bench machine -->\n<!-- end -->\n")
    write_tables({"ranges": [Figure("long " * 30, 0.5, "x faster", "0.73 s (0.72-0.73 s)", "> 1")]}, "one", document)
    assert "0.73 s (0.72-0.73 s)" in document.read_text()
