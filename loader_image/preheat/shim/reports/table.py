"""A report for a person at a terminal: the run in a few lines, then the model by modules. Pure: JSON in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from preheat.amounts import size_text
from preheat.shim.reports.facts import ALERTS, facts
from preheat.shim.reports.states import STATES
from preheat.shim.reports.tree import Leaf, Node, join_chains, leaves, model_tree, skipped_tree

_DEPTH = 2  # levels of modules that are listed
_ALIKE = 3  # tensors of which the same is to be said, and which are named for all that
_SHOWN = 40  # names that are listed; the page and the JSON have all


def table(report: Mapping[str, Any]) -> RenderableType:
    """What to print."""
    tree = join_chains(model_tree(report))
    parts: list[RenderableType] = [_head(report), *([_modules(tree)] if tree.tensors else [])]
    notable = [leaf for leaf in leaves(tree) if leaf.state != "loaded"]
    notable.sort(key=_as_wanted)
    if notable:
        parts.append(_names("Not simply loaded", notable))
    if left := list(leaves(skipped_tree(report))):
        parts.append(_names("In the checkpoint, not loaded", left))
    return Group(*parts)


def _head(report: Mapping[str, Any]) -> Table:
    head = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for name, value in facts(report):
        head.add_row(name, Text(value, "bold red" if name in ALERTS else ""))  # no markup: names come from outside
    return head


def _modules(tree: Node) -> Table:
    shown = [state for state in STATES if state in tree.states]
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    found.add_column("module", overflow="fold")
    for title in ("tensors", "size", *shown, *(["frozen"] if tree.frozen else [])):
        style = STATES[title].style if title in STATES else ""
        found.add_column(title, justify="right", style=style, no_wrap=True)
    for name, node in (("all", tree), *_rows(tree)):
        states = [_share(node.states[state], node.size) for state in shown]
        frozen = [_share(node.frozen, node.size)] if tree.frozen else []
        found.add_row(Text(name), str(node.tensors), size_text(node.size), *states, *frozen)
    return found


def _rows(node: Node, depth: int = 0) -> Iterator[tuple[str, Node]]:
    for child in node.children.values():
        if isinstance(child, Node):
            yield "  " * (depth + 1) + child.name, child
            if depth + 1 < _DEPTH:
                yield from _rows(child, depth + 1)


def _share(part: int, whole: int) -> str:
    return "" if not part else "all" if part == whole else f"{part / whole:.1%}"


def _names(title: str, found: list[Leaf]) -> Table:
    names = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    names.add_column(title, overflow="fold")  # a name that is cut could be any of several
    for column in ("", "size", "reason"):
        names.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    rows = list(_alike(found))
    for alike in rows[:_SHOWN]:
        first, more = alike[0], f" and {len(alike) - 1} more" if len(alike) > 1 else ""
        state = Text(first.state, STATES[first.state].style)
        size = size_text(sum(leaf.size for leaf in alike))
        names.add_row(Text(first.name + more), state, size, Text(first.reason))
    if left := sum(map(len, rows[_SHOWN:])):
        names.add_row(f"and {left} more", "", "", "")
    return names


def _alike(found: list[Leaf]) -> Iterator[list[Leaf]]:
    """Each tensor for itself, but many together that came to the model in the same way."""
    groups: dict[tuple[str, str], list[Leaf]] = {}
    for leaf in found:
        if _as_wanted(leaf):
            groups.setdefault((leaf.state, leaf.reason), []).append(leaf)
        else:
            yield [leaf]
    for alike in groups.values():
        yield from [alike] if len(alike) > _ALIKE else ([leaf] for leaf in alike)


def _as_wanted(leaf: Leaf) -> bool:
    """Whether it has the checkpoint's values, or is an addition: what has not comes first, each by its name."""
    return STATES[leaf.state].from_checkpoint or leaf.state == "added"
