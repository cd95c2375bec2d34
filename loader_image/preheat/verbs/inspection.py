"""What a checkpoint says about itself, from its index alone: payload stays where it is, whatever its size."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from preheat.blob import Patience
from preheat.bundle.manifest import MergedFacts
from preheat.bundle.origins import merged_facts
from preheat.errors import CheckpointConfigError
from preheat.formats import read_index
from preheat.formats.json_state import to_json
from preheat.index import Tensor
from preheat.verbs.location import Where, opened

MAX_LEVELS = 32  # of the tree of names; a name may hold any number of dots


@dataclass(frozen=True)
class Inspection:
    """A checkpoint's index and where it was found."""

    uri: str
    version: str
    size_bytes: int
    format: str
    layout: str
    merged: tuple[MergedFacts, ...]  # what it is made of, if of several checkpoints
    tensors: Mapping[str, Tensor]  # the weights; those that matched, where a pattern was given
    parameters: int  # elements of all distinct weights
    weight_bytes: int  # of the dense values, an alias not counted again
    state: Any  # all the rest as JSON, tensors by dtype and shape
    state_tensors: int
    state_bytes: int
    opaque: tuple[str, ...]  # classes that were found and not interpreted
    fetched_bytes: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Everything, for a program."""
        return {
            "source": {"uri": self.uri, "version": self.version, "sizeBytes": self.size_bytes},
            "format": self.format,
            "layout": self.layout,
            "merged": [each.to_json() for each in self.merged],
            "parameters": self.parameters,
            "weightBytes": self.weight_bytes,
            "tensors": {
                name: {"dtype": tensor.dtype, "shape": list(tensor.shape), "bytes": tensor.size}
                for name, tensor in self.tensors.items()
            },
            "state": self.state,
            "stateTensors": self.state_tensors,
            "stateBytes": self.state_bytes,
            "opaque": list(self.opaque),
            "fetchedBytes": self.fetched_bytes,
            "seconds": round(self.seconds, 3),
        }


def inspect(where: Where, *, match: str = "", patience: Patience | None = None) -> Inspection:
    """Read the index of a location or source; `match` is a regular expression that names of tensors must contain."""
    began = time.monotonic()
    wanted = _pattern(match)
    with opened(where, patience) as blob:
        index = read_index(blob)
        state = list(index.state_tensors())
        distinct = {tensor.place: tensor.size for tensor in index.tensors.values()}
        return Inspection(
            uri=blob.uri,
            version=blob.version,
            size_bytes=blob.size,
            format=index.format,
            layout=index.layout,
            merged=merged_facts(index),
            tensors={name: tensor for name, tensor in index.tensors.items() if wanted.search(name)},
            parameters=index.parameters,
            weight_bytes=sum(distinct.values()),
            state=to_json(index.state),
            state_tensors=len(state),
            state_bytes=sum(tensor.size for tensor in state),
            opaque=index.opaque,
            fetched_bytes=blob.fetched,
            seconds=time.monotonic() - began,
        )


@dataclass(frozen=True)
class Branch:
    """All tensors below a dotted name, or below numbered neighbours that look alike; an end also has their shape."""

    name: str  # the last part, or several where nothing branches off between them
    level: int  # 0 at the top
    tensors: int
    elements: int
    size: int  # bytes
    dtypes: tuple[str, ...]
    shape: tuple[int, ...] | None = None


def branches(tensors: Mapping[str, Tensor], depth: int) -> Iterator[Branch]:
    """The tree of dotted names, each branch before what is below it; below `depth` levels only sums are given."""
    yield from _below([(name.split(".", MAX_LEVELS), tensor) for name, tensor in tensors.items()], 0, depth)


_Parted = list[tuple[list[str], Tensor]]


def _below(tensors: _Parted, level: int, depth: int) -> Iterator[Branch]:
    groups: dict[str, _Parted] = {}
    for parts, tensor in tensors:
        groups.setdefault(parts[0], []).append((parts[1:], tensor))
    for first, group in _alike(groups):
        name, inside = _joined(first, group)
        branch = _sum(name, level, [tensor for _, tensor in inside])
        leaf = not any(parts for parts, _ in inside)
        yield replace(branch, shape=inside[0][1].shape) if leaf else branch
        if not leaf and level + 1 < depth:
            yield from _below([(parts or ["."], tensor) for parts, tensor in inside], level + 1, depth)


def _alike(groups: Mapping[str, _Parted]) -> Iterator[tuple[str, _Parted]]:
    """Numbered neighbours with the same names, dtypes and shapes below them as one: `0...21`."""

    def looks(item: tuple[str, _Parted]) -> object:
        name, group = item
        return [(parts, tensor.dtype, tensor.shape) for parts, tensor in group] if name.isdecimal() else name

    for _, run in groupby(groups.items(), looks):
        names, alike = zip(*run, strict=True)
        yield names[0] if len(names) == 1 else f"{names[0]}...{names[-1]}", [one for group in alike for one in group]


def _joined(name: str, group: _Parted) -> tuple[str, _Parted]:
    """Go down as long as there is one way only."""
    while all(parts for parts, _ in group) and len({parts[0] for parts, _ in group}) == 1:
        name = f"{name}.{group[0][0][0]}"
        group = [(parts[1:], tensor) for parts, tensor in group]
    return name, group


def _sum(name: str, level: int, tensors: list[Tensor]) -> Branch:
    return Branch(
        name=name,
        level=level,
        tensors=len(tensors),
        elements=sum(tensor.elements for tensor in tensors),
        size=sum(tensor.size for tensor in tensors),
        dtypes=tuple(dict.fromkeys(tensor.dtype for tensor in tensors)),
    )


def _pattern(match: str) -> re.Pattern[str]:
    try:
        return re.compile(match)
    except re.error as error:
        raise CheckpointConfigError(f"{match!r} is not a regular expression: {error}") from error
