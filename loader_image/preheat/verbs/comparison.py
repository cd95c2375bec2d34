"""How two checkpoints differ: names, shapes, dtypes and, if asked, values, read side by side in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from preheat.blob import Blob, Patience
from preheat.formats import read_index
from preheat.index import Tensor
from preheat.progress import Progress, watched
from preheat.transfer.workers import work_off
from preheat.verbs.location import Where, opened

if TYPE_CHECKING:
    from preheat.verbs.differences import Difference

THREADS = 4


@dataclass(frozen=True)
class Comparison:
    """What the second checkpoint's weights are, seen from the first; names in the order of the first."""

    missing: tuple[str, ...]  # in the first only
    unexpected: tuple[str, ...]  # in the second only
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    dtypes: Mapping[str, tuple[str, str]]
    values: Mapping[str, Difference] | None  # of all tensors of the same shape; None: not looked at
    tensors: int  # names that both have
    uris: tuple[str, str] = field(default=("", ""))

    @property
    def equal(self) -> bool:
        """Whether nothing that was looked at differs."""
        differing = any(not found.equal for found in (self.values or {}).values())
        return not (self.missing or self.unexpected or self.shapes or self.dtypes or differing)

    def to_json(self) -> dict[str, Any]:
        """Everything, for a program; `values` holds the tensors that differ."""
        return {
            "equal": self.equal,
            "uris": list(self.uris),
            "tensors": self.tensors,
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "shapes": {name: [list(shape) for shape in pair] for name, pair in self.shapes.items()},
            "dtypes": {name: list(pair) for name, pair in self.dtypes.items()},
            "values": self.values and {name: found.to_json() for name, found in self.values.items() if not found.equal},
            "compared": len(self.values) if self.values is not None else 0,
        }


def compare(
    first: Where,
    second: Where,
    *,
    values: bool = False,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare the weights of two locations or sources; `values` reads those that have a name and a shape in common."""
    with opened(first, patience) as one, opened(second, patience) as other:
        pair = read_index(one).tensors, read_index(other).tensors
        found = compare_tensors(*pair)
        pairs = {name: (pair[0][name], pair[1][name]) for name in _comparable(*pair)} if values else {}
        with watched(progress, sum(tensor.size for both in pairs.values() for tensor in both)):
            differences = _differences(one, other, pairs, progress) if values else None
        return Comparison(
            found.missing, found.unexpected, found.shapes, found.dtypes, differences, found.tensors,
            (one.uri, other.uri),
        )  # fmt: skip


def compare_tensors(first: Mapping[str, Any], second: Mapping[str, Any]) -> Comparison:
    """Names, shapes and dtypes of two mappings of anything that has `shape` and `dtype`."""
    both = [name for name in first if name in second]
    shapes = {name: (tuple(first[name].shape), tuple(second[name].shape)) for name in both}
    dtypes = {name: (str(first[name].dtype), str(second[name].dtype)) for name in both}
    return Comparison(
        missing=tuple(name for name in first if name not in second),
        unexpected=tuple(name for name in second if name not in first),
        shapes={name: pair for name, pair in shapes.items() if pair[0] != pair[1]},
        dtypes={name: pair for name, pair in dtypes.items() if pair[0] != pair[1]},
        values=None,
        tensors=len(both),
    )


def _comparable(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Iterator[str]:
    return (name for name in first if name in second and first[name].shape == second[name].shape)


def _differences(
    one: Blob, other: Blob, pairs: Mapping[str, tuple[Tensor, Tensor]], progress: Progress | None
) -> dict[str, Difference]:
    from preheat.verbs.differences import difference  # needs numpy

    found: dict[str, Difference] = {}

    def work(names: Iterator[str]) -> None:
        for name in names:
            found[name] = difference((one, pairs[name][0]), (other, pairs[name][1]))
            if progress:
                progress.advance(sum(tensor.size for tensor in pairs[name]))

    def stop() -> None:
        one.close()
        other.close()

    work_off(pairs, THREADS, work, stop)
    return {name: found[name] for name in pairs}
