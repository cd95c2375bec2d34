"""What checkpoints look like at a terminal: their facts, the tree of their tensors, and how two of them differ."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table

from preheat.amounts import count_of, parameters_text, size_text
from preheat.bundle.manifest import MergedFacts
from preheat.index import Tensor
from preheat.terminal import facts, plain
from preheat.verbs.comparison import Comparison
from preheat.verbs.inspection import Inspection, branches

_LONGEST = 60  # characters of a value of the metadata
_MOST = 20  # rows about one kind of difference


def inspected(found: Inspection) -> Table:
    """Where the checkpoint is, what it is, and what it holds besides tensors."""
    rows = [
        ("source", found.uri),
        ("version", found.version),
        ("size", size_text(found.size_bytes)),
        ("format", f"{found.format} ({found.layout})"),
        *merged_rows(found.merged),
        ("weights", f"{parameters_text(found.parameters)}, {size_text(found.weight_bytes)}"),
        ("other tensors", f"{found.state_tensors}, {size_text(found.state_bytes)}"),
        *_metadata(found.state),
    ]
    if found.opaque:
        rows.append(("not interpreted", ", ".join(found.opaque[:8]) + (", ..." if len(found.opaque) > 8 else "")))
    rows.append(("read", f"{found.fetched_bytes:,} bytes in {found.seconds:.2f} s"))
    return facts(rows)


def merged_rows(merged: Sequence[MergedFacts]) -> Iterator[tuple[str, str]]:
    """A row for each checkpoint that was merged."""
    for each in merged:
        kind = f"{each.format} ({each.layout}), version {each.version}"
        yield "merged", f"{count_of(each.tensors, 'tensor')} of {each.uri}: {kind}"


def tree(tensors: Mapping[str, Tensor], depth: int) -> Table:
    """Tensors by dotted name, `depth` levels of them."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("tensor", "dtype", "shape"):
        table.add_column(name, overflow="fold")
    table.add_column("size", justify="right")
    for branch in branches(tensors, depth):
        shape = count_of(branch.tensors, "tensor")
        if branch.shape is not None:
            shape = _shape(branch.shape) if branch.tensors == 1 else f"{branch.tensors:,} of {_shape(branch.shape)}"
        table.add_row(plain("  " * branch.level + branch.name), ", ".join(branch.dtypes), shape, size_text(branch.size))
    return table


def compared(found: Comparison) -> Iterator[RenderableType]:
    """A sentence, and below it a table of what differs."""
    values = found.values or {}
    differing = {name: value for name, value in values.items() if not value.equal}
    looked = f"values of {count_of(len(values), 'tensor')}" if found.values is not None else "no values"
    if found.equal:
        yield f"equal: {count_of(found.tensors, 'tensor')}; compared names, shapes, dtypes, {looked}"
        return
    counts = (
        ("missing", found.missing), ("unexpected", found.unexpected), ("of another shape", found.shapes),
        ("of another dtype", found.dtypes), ("with other values", differing),
    )  # fmt: skip
    said = ", ".join(f"{len(those)} {kind}" for kind, those in counts if those)
    yield f"different: {said}; {count_of(found.tensors, 'tensor')} in common, {looked} compared"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("tensor", "what", "A", "B"):
        table.add_column(name, overflow="fold")
    _rows(table, "missing", {name: ("present", "-") for name in found.missing})
    _rows(table, "unexpected", {name: ("-", "present") for name in found.unexpected})
    _rows(table, "shape", {name: (_shape(one), _shape(other)) for name, (one, other) in found.shapes.items()})
    _rows(table, "dtype", found.dtypes)
    farthest = sorted(differing.items(), key=lambda item: -item[1].largest)
    _rows(
        table, "values",
        {name: (f"{value.differing:,} of {value.elements:,} differ", f"by at most {_number(value.largest)}")
         for name, value in farthest},
    )  # fmt: skip
    yield table


def _rows(table: Table, what: str, differences: Mapping[str, tuple[str, str]]) -> None:
    for position, (name, (one, other)) in enumerate(differences.items()):
        if position == _MOST:
            table.add_row(f"... and {len(differences) - _MOST} more; --json has them all", what)
            return
        table.add_row(plain(name), what, one, other)


def _metadata(state: Any) -> Iterator[tuple[str, str]]:
    """The checkpoint's own entries; those of hyper-parameters one by one."""
    for key, value in state.items() if isinstance(state, dict) else ():
        if isinstance(value, dict) and key in ("hyper_parameters", "__metadata__") and "$items" not in value:
            yield from ((f"{key}.{name}", _short(inner)) for name, inner in value.items())
        else:
            yield key, _short(value)


def _short(value: Any) -> str:
    text = json.dumps(value)
    if len(text) <= _LONGEST or not isinstance(value, (dict, list)):
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return count_of(len(value), "value") + (
        f": {', '.join(map(str, list(value)[:4]))}" if isinstance(value, dict) else ""
    )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else "infinity"
