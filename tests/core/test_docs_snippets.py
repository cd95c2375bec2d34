"""What the documentation shows is run: a page's marked blocks in order, in one process, in an empty folder.

The info string of a fence marks a block: `python runnable` and `sh runnable` run, `file=NAME` is written down first. A
`text` block right after one that runs is what it prints; `...` stands for anything, and line breaks do not count.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from functools import cache
from pathlib import Path

import pytest
import yaml
from warm import Warm

from preheat.components import CHECKS
from preheat.construction import camel_case
from preheat.modifiers import MODIFIERS
from preheat.sources import SOURCES
from preheat.spec import parse
from preheat.strategies import STRATEGIES
from preheat.strategies.mapped import MappedStrategy, ResizingStrategy
from preheat_operator.api import KIND, Pipeline

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FAMILIES = {"sources": SOURCES, "verify": CHECKS, "strategies": STRATEGIES, "modifiers": MODIFIERS}
MAPPED = [camel_case(field.name) for field in fields(MappedStrategy)]
RESIZED = [camel_case(field.name) for field in fields(ResizingStrategy)][len(MAPPED) :]

_FENCE = re.compile(r"^```(\w+)(?: ([^\n]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_RUNS = ("python", "sh")

# One process per page, so that a block goes on where the one before it ended.
_RUNNER = """
import contextlib, io, json, pathlib, subprocess
names, printed = {"__name__": "__main__"}, []
for language, text in json.loads(pathlib.Path(".blocks.json").read_text()):
    if language == "sh":
        printed.append(subprocess.run(["bash", "-euc", text], check=True, stdout=subprocess.PIPE, text=True).stdout)
        continue
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(text, "snippet", "exec"), names)
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


@dataclass(frozen=True)
class Block:
    language: str
    mark: str
    text: str
    expected: str | None = None  # what the text block right behind it says

    @property
    def runs(self) -> bool:
        return self.language in _RUNS and self.mark == "runnable"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    found = list(_FENCE.finditer(text))
    for position, match in enumerate(found):
        after = found[position + 1] if position + 1 < len(found) else None
        behind = after is not None and after[1] == "text" and not text[match.end() : after.start()].strip()
        yield Block(match[1], match[2] or "", match[3], after[3] if after and behind else None)


RUNNABLE = [page for page in PAGES if any(block.runs for block in blocks(page))]
RESOURCES = [
    pytest.param(document, id=f"{page.stem}-{document['metadata']['name']}")
    for page in PAGES
    for block in blocks(page)
    if block.language == "yaml"
    for document in yaml.safe_load_all(block.text)
    if isinstance(document, dict) and document.get("kind") == KIND
]


def environment() -> dict[str, str]:
    """Ours, without what tests or their user have set for Python and Preheat."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREHEAT_", "PYTHON"))}
    return {**inherited, "PATH": f"{Path(sys.executable).parent}:{inherited['PATH']}", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    """Has imported torch, as nearly every page does."""
    python = Warm(environment(), "torch")
    yield python
    python.end()


def run(found: list[Block], folder: Path, warm: Warm) -> list[str]:
    """What each block prints."""
    for block in found:
        if block.mark.startswith("file="):
            path = folder / block.mark.removeprefix("file=")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    (folder / ".runner.py").write_text(_RUNNER)
    (folder / ".blocks.json").write_text(json.dumps([(block.language, block.text) for block in found if block.runs]))
    given = {"PYTHONPATH": str(folder), "TMPDIR": str(folder)}
    done = warm.run(folder / ".runner.py", environment() | given)
    assert done.returncode == 0, done.stderr
    printed: list[str] = json.loads(done.stdout)
    return printed


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_the_snippets_of_a_page_run_and_print_what_it_says(page, tmp_path, warm):
    found = list(blocks(page))
    running = [block for block in found if block.runs]
    for block, printed in zip(running, run(found, tmp_path, warm), strict=True):
        same = OutputChecker().check_output(block.expected or "", printed, ELLIPSIS | NORMALIZE_WHITESPACE)
        assert block.expected is None or same, f"{block.text}\nprints\n{printed}"


@pytest.mark.parametrize("document", RESOURCES)
def test_a_pipeline_that_is_shown_is_accepted(document):
    assert parse(document) == Pipeline.parse(document).parsed


def test_an_info_string_says_nothing_that_is_not_understood():
    marks = {block.mark for page in PAGES for block in blocks(page)}
    assert {mark for mark in marks if not mark.startswith("file=")} <= {"", "runnable"}


@pytest.mark.parametrize(
    ("page", "name"), [(page, name) for page, family in FAMILIES.items() for name in family], ids=lambda value: value
)
def test_every_parameter_of_a_stage_has_a_row(page, name):
    common = [*MAPPED, *RESIZED] if page == "strategies" else []
    named = [camel_case(field.name) for field in fields(FAMILIES[page][name])]
    assert rows(page, camel_case(name)) == [parameter for parameter in named if parameter not in common]


def test_every_parameter_that_strategies_share_has_a_row():
    assert rows("strategies", "Names") == MAPPED
    assert rows("strategies", "Sizes") == RESIZED


def rows(page, title):
    section = re.search(rf"^## {title}\b.*?(?=^## |\Z)", (ROOT / f"docs/{page}.md").read_text(), re.M | re.S)
    assert section, f"docs/{page}.md has no section {title}"
    return re.findall(r"^\| `(\w+)` \|", section[0], re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_inside_the_repository_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", prose(page))
    lost = [name for name, _ in links if not (page.parent / name).exists()]
    named = [(page.parent / name if name else page, anchor) for name, anchor in links if anchor]
    lost += [f"{target.name}#{anchor}" for target, anchor in named if anchor not in anchors(target)]
    assert lost == []


def test_every_page_is_found_from_the_readme():
    linked = set(re.findall(r"\]\(docs/([\w/-]+\.md)", PAGES[0].read_text()))
    assert {str(page.relative_to(ROOT / "docs")) for page in PAGES[1:]} == linked


def prose(page):
    """The page without what it shows as code, which may look like anything."""
    return re.sub(r"`[^`\n]*`", "`", _FENCE.sub("", page.read_text()))


@cache
def anchors(page):
    """Under which names the page's headings can be linked to."""
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", [*FAMILIES, "frameworks", "python-api"])
def test_lines_are_at_most_140_wide(name):
    lines = (ROOT / "docs" / f"{name}.md").read_text().splitlines()
    assert [number for number, line in enumerate(lines, 1) if len(line) > 140] == []
