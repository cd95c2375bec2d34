"""What the person at the terminal sees: numbered chapters, the commands that were run, what they answered."""

from __future__ import annotations

import sys
from textwrap import indent

from rich.console import Console
from rich.markup import escape

# 110 columns wherever it is printed, so that a transcript in a log reads like one on a screen.
_console = Console(width=110 if not sys.stdout.isatty() else None, highlight=False, soft_wrap=True)
_chapter = 0


def chapter(title: str) -> None:
    """Begin the next numbered chapter."""
    global _chapter
    _chapter += 1
    _console.print(f"\n[bold cyan]{_chapter}. {escape(title)}[/]")


def say(text: str) -> None:
    """One line of explanation."""
    _console.print(f"   {escape(text)}")


def command(line: str, output: str = "") -> None:
    """A command as a user would type it, and what it printed."""
    _console.print(f"   [bold]$ {escape(line)}[/]")
    if output.strip():
        _console.print(escape(indent(output.rstrip(), "   ")))


def holds(fact: str) -> None:
    """Something that was compared and is so."""
    _console.print(f"   [green]ok[/] {escape(fact)}")


def fails(fact: str) -> None:
    """Something that was compared and is not so."""
    _console.print(f"   [bold red]NOT SO[/] {escape(fact)}")
