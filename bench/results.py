"""Figures with their goals, as a table for a person and a file for a program."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import fill, shorten

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "benchmarks.md"
WIDTH = 140  # of a line of documentation
LEAST = 32  # of a row's remark: a row cannot be broken, so a long name makes a longer line


@dataclass(frozen=True)
class Figure:
    """One measured figure. `goal` reads like `<= 64`; None: shown for comparison only."""

    name: str
    figure: float
    unit: str
    against: str = ""
    goal: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal holds; None without a goal."""
        if self.goal is None:
            return None
        sign, limit = self.goal.split()
        return self.figure <= float(limit) if sign == "<=" else self.figure >= float(limit)

    @property
    def result(self) -> str:
        """For the table; a miss by how large a part of the goal."""
        if self.met is not False:
            return "met" if self.met else ""
        limit = float(str(self.goal).split()[1])
        return f"missed by {abs(self.figure - limit) / limit:.0%}" if limit else "missed"


def show(figures: list[Figure], title: str, caption: str) -> None:
    """Print the table."""
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for heading in ("what", "figure", "unit", "against", "goal", "met"):
        table.add_column(heading, justify="right" if heading == "figure" else "left")
    words = {True: "yes", False: "NO", None: ""}
    for figure in figures:
        row = (figure.name, f"{figure.figure:.4g}", figure.unit, figure.against, figure.goal or "", words[figure.met])
        table.add_row(*row)
    Console(width=150).print(table)


def write(found: Mapping[str, list[Figure]], path: Path) -> None:
    """A list of {part, name, figure, unit, against, goal, met}; parts that were not measured now keep their figures."""
    known = json.loads(path.read_text()) if path.exists() else []
    kept = [entry for entry in known if entry.get("part", next(iter(found))) not in found]
    new = [{"part": part, **asdict(figure), "met": figure.met} for part, figures in found.items() for figure in figures]
    path.write_text(json.dumps([*kept, *new], indent=1) + "\n")


def conclude(found: Mapping[str, list[Figure]], title: str, machine: str, *, docs: bool) -> None:
    """Print the table of a bench of its own and write it down, `docs`: for people. Exit with 1 for a missed goal."""
    figures = [figure for part in found.values() for figure in part]
    show(figures, title, machine)
    write(found, HERE / "results.json")
    if docs:
        write_tables(found, f"Measured with {machine}.", DOCUMENT, f"{next(iter(found))}-machine")
    if missed := [figure.name for figure in figures if figure.met is False]:
        raise SystemExit(f"goals missed: {', '.join(missed)}")


def write_tables(found: Mapping[str, list[Figure]], machine: str, document: Path, place: str = "machine") -> None:
    """Replace what stands between `<!-- bench PART -->` and `<!-- end -->` in Markdown; `machine` stands at `place`."""
    text = document.read_text()
    written = {part: _markdown(figures) for part, figures in found.items()} | {place: f"{fill(machine, WIDTH)}\n"}
    for part, content in written.items():
        begin, end = f"<!-- bench {part} -->\n", "<!-- end -->"
        before, marker, after = text.partition(begin)
        if marker:
            text = before + marker + content + end + after.partition(end)[2]
    document.write_text(text)


def _markdown(figures: list[Figure]) -> str:
    """The table, in lines of 140 characters where names allow it: without what all names begin with."""
    common = figures[0].name.partition(", ")[0] + ", "
    if not all(figure.name.startswith(common) for figure in figures):
        common = ""
    rows = ["| what | figure | against | goal | |", "|---|---|---|---|---|"]
    for figure in figures:
        first = f"| {figure.name.removeprefix(common)} | {figure.figure:.3g} {figure.unit} | "
        last = f" | {figure.goal or ''} | {figure.result} |"
        room = max(LEAST, WIDTH - len(first + last))
        rows.append(first + shorten(figure.against, room, placeholder="...") + last)
    return "\n".join(rows) + "\n"
