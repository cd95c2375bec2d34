"""What a checkpoint has to hold: numbers, names and shapes, compared with its index before a byte of payload moves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError
from preheat.index import Index
from preheat.limits import Limit, check_limits
from preheat.names import compiled
from preheat.paths import listed, meant

#: Differences that one message holds.
SHOWN = 8

Lengths = Annotated[tuple[int, ...], Limit(max_length=32, items=Limit(minimum=0))]


@dataclass(frozen=True)
class Expect:
    """Refuse a checkpoint that is another one than you mean; `preheat inspect` shows what it holds."""

    tensors: Annotated[int, Limit(minimum=1)] | None = None
    """Number of weights, each name of tied ones counted: `len(state_dict)`."""

    parameters: Annotated[int, Limit(minimum=1)] | None = None
    """Number of elements of all weights together, tied ones counted once."""

    names: Annotated[tuple[str, ...], Limit(max_length=64, items=Limit(min_length=1, max_length=256))] = ()
    r"""Regular expressions; each has to be found in the name of a weight, such as `^encoder\.`."""

    shapes: Annotated[dict[str, Lengths], Limit(max_length=256)] | None = None
    """Shapes by name, such as `head.weight: [10, 768]`; a weight of that name has to be there and be so."""

    def __post_init__(self) -> None:
        """Lists from YAML become tuples; refuse what no checkpoint could be."""
        object.__setattr__(self, "names", listed("expect.names", self.names))
        if self.shapes is not None:
            object.__setattr__(self, "shapes", _lengths(self.shapes))
        for name in ("tensors", "parameters"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise CheckpointConfigError(f"expect.{name}: {value!r:.80} is not a number")
        check_limits(self)
        for pattern in self.names:
            compiled("expect.names", pattern)
        if not (self.tensors or self.parameters or self.names or self.shapes):
            raise CheckpointConfigError("expect: give tensors, parameters, names or shapes")

    def check(self, index: Index) -> None:
        """Raise CheckpointIncompatibleError that says everything in which `index` differs."""
        found = list(islice(self._differences(index), SHOWN + 1))
        if found:
            more = "; and more" if len(found) > SHOWN else ""
            raise CheckpointIncompatibleError(
                f"the checkpoint is not the expected one: {'; '.join(found[:SHOWN])}{more}",
                remedy="Take the checkpoint that was meant, or correct expect in the verify stage",
            )

    def _differences(self, index: Index) -> Iterator[str]:
        for expected, found, what in (
            (self.tensors, len(index.tensors), "tensors"),
            (self.parameters, index.parameters, "parameters"),
        ):
            if expected is not None and found != expected:
                yield f"it has {found} {what}, expected are {expected}"
        for text in self.names:
            pattern = re.compile(text)
            if not any(map(pattern.search, index.tensors)):
                some = ", ".join(name[:120] for name in list(index.tensors)[:3]) or "none at all"
                yield f"no name matches {text!r}; there are {some}"
        for name, shape in (self.shapes or {}).items():
            tensor = index.tensors.get(name)
            if tensor is None:
                yield f"there is no {name!r}{meant(name, index.tensors)}"
            elif tensor.shape != shape:
                yield f"{name!r} has shape {list(tensor.shape)}, expected is {list(shape)}"


def _lengths(shapes: Any) -> dict[str, tuple[int, ...]]:
    if not isinstance(shapes, Mapping):
        raise CheckpointConfigError("expect.shapes: give shapes by name, such as {head.weight: [10, 768]}")
    for name, shape in shapes.items():
        if not isinstance(shape, (list, tuple)) or not all(type(length) is int and length >= 0 for length in shape):
            raise CheckpointConfigError(f"expect.shapes: {name!r:.120} needs a list of lengths, such as [10, 768]")
    return {str(name): tuple(shape) for name, shape in shapes.items()}
