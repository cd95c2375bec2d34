"""What became of every tensor of a report, and the model as a tree of those answers. Pure: a report's JSON in.

A tensor of the model has one state; frozen is said beside it, because a frozen tensor may be loaded or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from preheat.paths import holds
from preheat.strategies.leaving import asked_for
from preheat.strategies.wrapping import plain

#: Why the tensors of a model that trains without a checkpoint are as they are.
NO_CHECKPOINT = "no checkpoint was loaded"

#: Modifiers whose entry names `tensors`, each with what became of it, and the state that those are in then.
_CHANGES = {"precision": "cast", "quantize": "cast", "prune": "pruned"}


@dataclass(frozen=True)
class Leaf:
    """One tensor. `reason` says why it is not simply loaded."""

    name: str
    state: str
    reason: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    size: int  # bytes
    frozen: bool


@dataclass
class Node:
    """A module: what is in it by name, and sums over all of it."""

    name: str
    children: dict[str, Node | Leaf] = field(default_factory=dict)
    tensors: int = 0
    elements: int = 0
    size: int = 0
    parts: Counter[tuple[str, bool]] = field(default_factory=Counter)  # bytes by state, and by whether they are frozen

    @property
    def frozen(self) -> int:
        """Bytes that get no gradient."""
        return sum(size for (_, frozen), size in self.parts.items() if frozen)

    @property
    def states(self) -> Counter[str]:
        """Bytes by state; a state is also there when all its tensors are empty."""
        found: Counter[str] = Counter()
        for (state, _), size in self.parts.items():
            found[state] += size
        return found

    def add(self, path: list[str], leaf: Leaf) -> None:
        """Put `leaf` below, at `path`."""
        self.tensors += 1
        self.elements += leaf.elements
        self.size += leaf.size
        self.parts[leaf.state, leaf.frozen] += leaf.size
        if len(path) == 1:
            self.children[path[0]] = leaf
            return
        below = self.children.get(path[0])
        if not isinstance(below, Node):  # a tensor and a module cannot share a name in torch
            below = self.children[path[0]] = Node(path[0])
        below.add(path[1:], leaf)


def model_tree(report: Mapping[str, Any]) -> Node:
    """The tensors of the model."""
    return _tree(_from(report, _model_leaves(report)))


def skipped_tree(report: Mapping[str, Any]) -> Node:
    """The tensors of the checkpoint that did not reach the model."""
    sizes = report["skippedTensors"]
    skipped = (_leaf(name, "skipped", str(why), sizes.get(name, {})) for name, why in report["skipped"].items())
    return _tree(_from(report, skipped))


def leaves(tree: Node) -> Iterator[Leaf]:
    """Every tensor of the tree."""
    for child in tree.children.values():
        yield from [child] if isinstance(child, Leaf) else leaves(child)


def join_chains(node: Node) -> Node:
    """The tree with every module that holds one module and nothing else joined to it: `model.module.encoder`."""
    children: dict[str, Node | Leaf] = {}
    for name, child in node.children.items():
        below = join_chains(child) if isinstance(child, Node) else child
        if isinstance(below, Node) and len(below.children) == 1:
            [only] = below.children.values()
            if isinstance(only, Node):
                below = replace(only, name=f"{below.name}.{only.name}")
        children[name] = below
    return replace(node, children=children)


def _model_leaves(report: Mapping[str, Any]) -> Iterator[Leaf]:
    loaded, left, changes = set(report["loaded"]), report["leftInitial"], _changes(report)
    added = set(map(plain, report.get("added", ())))
    reset = [path for entry in report["modifiers"] if entry.get("type") == "reset" for path in entry["layers"]]
    for name, size in report["tensors"].items():
        own = plain(name)  # by which modifiers know it
        if any(holds(path, own) for path in reset):
            yield _leaf(name, "reset", "reset after loading", size)
        elif name in left:
            yield _leaf(name, _state_of(left[name]), left[name], size)
        elif own in added and name not in loaded:
            yield _leaf(name, "added", "by the pipeline", size)
        elif name in loaded or own in changes:
            state, reasons = changes.get(own, ("loaded", []))
            yield _leaf(name, state, ", then ".join(reasons), size)
        else:
            yield _leaf(name, *_unnamed(bool(loaded or left)), size)


def _from(report: Mapping[str, Any], found: Iterator[Leaf]) -> Iterator[Leaf]:
    """Each with the checkpoint that it is from, where several were merged."""
    merged, origins = report.get("merged", ()), report.get("origins", {})
    for leaf in found:
        if leaf.name in origins:
            said = f"of {merged[origins[leaf.name]]['uri']}"
            yield replace(leaf, reason=f"{leaf.reason}, {said}" if leaf.reason else said)
        else:
            yield leaf


def _changes(report: Mapping[str, Any]) -> dict[str, tuple[str, list[str]]]:
    """State of every tensor that was not simply loaded, and why, in the order in which it happened."""
    found = {plain(name): ("resized", [how]) for name, how in report.get("resized", {}).items()}
    for name, cast in ((plain(name), cast) for name, cast in report["casts"].items()):
        found[name] = "cast" if name not in found else "resized", [*found.get(name, ("", []))[1], cast]
    for entry in report["modifiers"]:
        if state := _CHANGES.get(str(entry.get("type"))):
            for name, change in entry["tensors"].items():
                before, reasons = found.get(name, ("", []))
                found[name] = "pruned" if before == "pruned" else state, [*reasons, change]
    return found


def _unnamed(others: bool) -> tuple[str, str]:
    """State and reason of a tensor that no stage spoke of; `others` were spoken of."""
    if others:
        return "added", "added to the model after the weights were loaded"
    return "loaded", "by a stage of the pipeline's own, which names no tensors"


def _state_of(reason: str) -> str:
    if asked_for(reason):
        return "reset"
    return "initial" if reason in ("not in the checkpoint", NO_CHECKPOINT) else "skipped"


def _tree(found: Iterator[Leaf]) -> Node:
    root = Node("")
    for leaf in found:
        root.add(leaf.name.split("."), leaf)
    return root


def _leaf(name: str, state: str, reason: str, size: Mapping[str, Any]) -> Leaf:
    return Leaf(
        name=name,
        state=state,
        reason=reason,
        dtype=str(size.get("dtype", "")),
        shape=tuple(size.get("shape", ())),
        elements=int(size.get("elements", 0)),
        size=int(size.get("bytes", 0)),
        frozen=bool(size.get("frozen", False)),
    )
