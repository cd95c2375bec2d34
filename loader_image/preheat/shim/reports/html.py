"""A report as one HTML page that needs nothing else: no network, no files, no script. Pure: JSON in, text out.

Everything that comes from the report is escaped, and the page's own policy forbids whatever it does not bring along.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from itertools import groupby
from typing import Any

from preheat.amounts import size_text
from preheat.shim.reports.facts import ALERTS, facts
from preheat.shim.reports.look import CSS, SCRIPT
from preheat.shim.reports.states import STATES, colours
from preheat.shim.reports.tree import Leaf, Node, join_chains, leaves, model_tree, skipped_tree

_LEVELS = 3  # of modules above the map of tensors
_UNFOLDED = 40  # tensors: up to so many are shown at once
_TINY = 0.002  # of the map's width: two pixels, the edge included
_HEAD = (("name", "name"), ("bar", ""), ("size", "size"), ("kind", "type and shape"), ("why", "what became of it"))
_NARROW = 0.03  # of the map's width: no room for a name


def page(report: Mapping[str, Any]) -> str:
    """The page's text."""
    tree, skipped = join_chains(model_tree(report)), join_chains(skipped_tree(report))
    title = f"{report.get('pipeline') or 'checkpoint'}, rank {report.get('rank', 0)}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub">{escape(_summary(report, tree))}</p>',
        _facts(report),
        f"<h2>The model, {size_text(tree.size)}</h2>{_legend(tree)}{_map(tree)}",
        f"<h2>Tensor by tensor</h2>{_tree(tree)}",
    ]
    if skipped.tensors:
        body.append(f"<h2>In the checkpoint, not loaded</h2>{_tree(skipped)}")
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)} - Preheat</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}{colours()}</style></head><body>{''.join(body)}"
        f"<footer>Written by preheat report.</footer><script>{SCRIPT}</script></body></html>\n"
    )


def _summary(report: Mapping[str, Any], tree: Node) -> str:
    counts = Counter(leaf.state for leaf in leaves(tree))
    loaded = sum(count for name, count in counts.items() if STATES[name].from_checkpoint)
    frozen = sum(leaf.frozen for leaf in leaves(tree))
    others = [f"{counts[name]} {name}" for name in STATES if counts[name] and name not in ("loaded", "cast")]
    more = [*others, *([f"{frozen} frozen"] if frozen else [])]
    return f"{loaded} of {tree.tensors} tensors hold the checkpoint's values" + "".join(f", {each}" for each in more)


def _facts(report: Mapping[str, Any]) -> str:
    return f"<dl>{''.join(_fact(name, str(value)) for name, value in facts(report))}</dl>"


def _fact(name: str, value: str) -> str:
    alert = ' class="alert"' if name in ALERTS else ""
    return f"<dt>{escape(name)}</dt><dd{alert}>{escape(value)}</dd>"


def _legend(tree: Node) -> str:
    items = [(name, tree.states[name], state.meaning) for name, state in STATES.items() if name in tree.states]
    if any(leaf.frozen for leaf in leaves(tree)):
        items.append(("frozen", tree.frozen, "gets no gradient"))
    return f'<ul class="legend">{"".join(_legend_item(*item) for item in items)}</ul>'


def _legend_item(state: str, size: int, meaning: str) -> str:
    return f'<li><i class="{state}"></i>{state} <small>{size_text(size)}: {escape(meaning)}</small></li>'


def _map(tree: Node) -> str:
    """Modules over their tensors, widths to the scale of their bytes."""
    depth = min(_LEVELS, _depth(tree))
    boxes = [*_boxes(tree, 0, 0, tree.size, depth), *_parts(tree, depth)]
    return f'<div class="map" style="height:{depth * 1.5 + 2.2:.1f}rem">{"".join(boxes)}</div>'


def _depth(node: Node) -> int:
    return max((1 + _depth(child) for child in node.children.values() if isinstance(child, Node)), default=0)


def _boxes(node: Node, level: int, start: int, whole: int, depth: int) -> Iterator[str]:
    for child in node.children.values():
        if isinstance(child, Node) and level < depth and child.size > whole * _TINY:
            place = f"left:{_percent(start, whole)};width:{_percent(child.size, whole)};top:{level * 1.5:.1f}rem"
            label = escape(child.name)
            kind = "module" if child.size > whole * _NARROW else "module narrow"
            yield f'<div class="{kind}" style="{place}" title="{label}: {size_text(child.size)}">{label}</div>'
            yield from _boxes(child, level + 1, start, whole, depth)
        start += child.size


def _parts(tree: Node, depth: int) -> Iterator[str]:
    start = 0
    for (state, frozen), run in groupby(leaves(tree), lambda leaf: (leaf.state, leaf.frozen)):
        found = list(run)
        size = sum(leaf.size for leaf in found)
        place = f"left:{_percent(start, tree.size)};width:{_percent(size, tree.size)};top:{depth * 1.5:.1f}rem"
        names = found[0].name if len(found) == 1 else f"{found[0].name} ... {found[-1].name}"
        said = f"{names}: {state}{', frozen' if frozen else ''}, {size_text(size)}"
        yield f'<div class="part {_classes(state, frozen)}" style="{place}" title="{escape(said)}"></div>'
        start += size


def _tree(tree: Node) -> str:
    small = tree.tensors <= _UNFOLDED
    tools = (
        '<div class="tools" hidden><input type="search" placeholder="name, state, dtype" aria-label="Filter">'
        '<button type="button">Unfold all</button><button type="button">Fold all</button></div>'
    )
    head = "".join(f'<span class="{kind}">{text}</span>' for kind, text in _HEAD)
    rows = "".join(_rows(tree.children.values(), 0, tree.size, small))
    return f'{tools}<div class="tree"><div class="row head" style="--d:0">{head}</div>{rows}</div>'


def _rows(children: Iterable[Node | Leaf], depth: int, whole: int, small: bool) -> Iterator[str]:
    for child in children:
        if isinstance(child, Leaf):
            yield _leaf(child, depth, whole)
            continue
        # What is not the same throughout lies open: it is what one looks for.
        unfold = " open" if small or not depth or len(child.parts) > 1 else ""
        kinds = f"{child.tensors} tensor{'s' if child.tensors != 1 else ''}"
        row = _cells(child.name, depth, _bar(child.parts, whole), child.size, kinds, _states(child))
        yield f'<details{unfold}><summary class="row">{row}</summary>'
        yield from _rows(child.children.values(), depth + 1, whole, small)
        yield "</details>"


def _states(node: Node) -> str:
    frozen = {frozen for _, frozen in node.parts}
    said = [state for state in STATES if state in node.states]
    return ", ".join([*said, *(["frozen"] if frozen == {True} else ["partly frozen"] if True in frozen else [])])


def _leaf(leaf: Leaf, depth: int, whole: int) -> str:
    name = leaf.name.rpartition(".")[2]
    kind = f"{escape(leaf.dtype)} {escape(str(list(leaf.shape)))}" if leaf.dtype else ""
    why = f"<b>{_words(leaf.state, leaf.frozen)}</b>"
    if leaf.reason and leaf.reason != leaf.state:
        why += f": {escape(leaf.reason)}"
    find = escape(f"{leaf.name} {leaf.state}{' frozen' if leaf.frozen else ''} {leaf.dtype}".lower())
    cells = _cells(name, depth, _bar({(leaf.state, leaf.frozen): leaf.size}, whole), leaf.size, kind, why)
    return f'<div class="row leaf" data-find="{find}" title="{escape(leaf.name)}">{cells}</div>'


def _cells(name: str, depth: int, bar: str, size: int, kind: str, why: str) -> str:
    return (
        f'<span class="name" style="--d:{depth}">{escape(name)}</span><span class="bar">{bar}</span>'
        f'<span class="size">{size_text(size)}</span><span class="kind">{kind}</span><span class="why">{why}</span>'
    )


def _bar(parts: Mapping[tuple[str, bool], int], whole: int) -> str:
    shown = ((key, parts[key]) for key in sorted(parts, key=_order) if parts[key])
    return "".join(f'<i class="{_classes(*key)}" style="width:{_percent(size, whole)}"></i>' for key, size in shown)


def _order(part: tuple[str, bool]) -> tuple[int, bool]:
    return list(STATES).index(part[0]), part[1]


def _words(state: str, frozen: bool) -> str:
    return f"{state}, frozen" if frozen else state


def _classes(state: str, frozen: bool) -> str:
    return f"{state} frozen" if frozen else state


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.3f}%"
