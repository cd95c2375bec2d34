"""Figures with their goals, as a table for a person and a file for a program."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


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


def write(figures: list[Figure], path: Path) -> None:
    """A list of {name, figure, unit, against, goal, met}."""
    path.write_text(json.dumps([{**asdict(figure), "met": figure.met} for figure in figures], indent=1) + "\n")
