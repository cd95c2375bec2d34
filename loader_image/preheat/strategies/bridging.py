"""How a tensor of the checkpoint becomes one of another size, where a strategy's patterns ask for it. Pure.

Interpolated is what belongs to positions in an image: tables of relative positions, position embeddings, kernels of
patches. Of what is overlapped, such as a vocabulary, the common leading part is copied. Nothing else is guessed: what
names and shapes do not tell is refused, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt, prod

from preheat.errors import CheckpointIncompatibleError
from preheat.names import found
from preheat.paths import some
from preheat.strategies.matching import Entry

Shape = tuple[int, ...]

#: What a model computes from its sizes by itself, by the last part of the name.
_COMPUTED = frozenset(("relative_position_index", "relative_coords_table", "attn_mask", "position_ids"))

#: Leading entries, such as class and register tokens, that an embedding may hold beside its positions. Up to so many
#: there is never more than one number for which both sizes are squares.
_TOKENS = 16

_RELATIVE = re.compile(r"rel(ative)?_?pos")
_BUCKETS = "relative_attention_bias"  # T5's
_AXES = ("rows", "columns")
_MODELS = "tensors of the model"


@dataclass(frozen=True)
class Overlap:
    """The common leading part of every axis is copied, all else keeps its initial value."""

    source: Shape
    target: Shape

    @property
    def shape(self) -> Shape:
        """Of the part that is copied."""
        return tuple(map(min, self.source, self.target))

    @property
    def complete(self) -> bool:
        """Whether nothing of the model's tensor keeps its initial value."""
        return self.shape == self.target

    def __str__(self) -> str:
        differing = [n for n in range(len(self.shape)) if self.source[n] != self.target[n]]
        names = _AXES if len(self.shape) <= len(_AXES) else ()
        parts = (f"{self.shape[n]} {names[n] if n < len(names) else f'entries of axis {n}'}" for n in differing)
        return f"{_sizes(self.source, self.target)}: {', '.join(parts)} copied"


@dataclass(frozen=True)
class Resampling:
    """Positions of a grid become those of another, by bicubic interpolation."""

    source: Shape
    target: Shape
    axis: int
    axes: int  # 1: height and width are one axis of the tensor, 2: they are two
    old: tuple[int, int]  # height and width
    new: tuple[int, int]
    before: int = 0  # entries of the axis that are no positions and stay as they are
    after: int = 0
    smooth: bool = True  # whether a grid that shrinks is averaged over more than its nearest positions

    complete = True

    def __str__(self) -> str:
        grids = "{}x{} -> {}x{}".format(*self.old, *self.new)
        kept = [f"the {where} {n} kept" for n, where in ((self.before, "first"), (self.after, "last")) if n]
        return ", ".join([f"{_sizes(self.source, self.target)}: {grids} positions, bicubic", *kept])


@dataclass(frozen=True)
class Kernel:
    """The kernel of a convolution becomes the one that answers to resized patches as the old one to the patches."""

    source: Shape
    target: Shape

    complete = True

    def __str__(self) -> str:
        grids = "{}x{} -> {}x{}".format(*self.source[2:], *self.target[2:])
        return f"{_sizes(self.source, self.target)}: kernel {grids}, by the pseudo-inverse of bicubic resizing"


Bridge = Overlap | Resampling | Kernel


@dataclass(frozen=True)
class Bridges:
    """What is bridged, by name, and remarks for the report."""

    by_name: Mapping[str, Bridge] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def bridge(
    where: str,
    checkpoint: Mapping[str, Entry],
    model: Mapping[str, Entry],
    interpolate: Sequence[str],
    overlap: Sequence[str],
) -> Bridges:
    """How the tensors that the patterns name, and whose sizes differ, are bridged.

    Raises NothingMatchedError for a pattern that names no tensor of the model, CheckpointIncompatibleError with the
    reason for every tensor that cannot be bridged as it is asked for.
    """
    asked = {
        "interpolate": found(f"{where}.interpolate", interpolate, list(model), _MODELS),
        "overlap": found(f"{where}.overlap", overlap, list(model), _MODELS),
    }
    made: dict[str, Bridge] = {}
    refused: dict[str, str] = {}
    for name in (each for each in model if each in checkpoint and checkpoint[each].shape != model[each].shape):
        fields = [field for field, names in asked.items() if name in names]
        answer = _bridge(fields, name, checkpoint[name], model[name]) if fields else None
        if isinstance(answer, str):
            refused[name] = answer
        elif answer:
            made[name] = answer
    if refused:
        raise CheckpointIncompatibleError(
            f"{where}: sizes that cannot be bridged: {some([f'{n} ({why})' for n, why in refused.items()], 5)}",
            remedy="Name other tensors, or let these keep their initial value with `keep`",
        )
    return Bridges(made, tuple(_idle((*interpolate, *overlap), made)))


def computed(checkpoint: Mapping[str, Entry], model: Mapping[str, Entry]) -> frozenset[str]:
    """Indexes and masks of position that are not the same on both sides: the model's own are right."""
    names = (name for name in (*checkpoint, *model) if name.rpartition(".")[2] in _COMPUTED)
    return frozenset(name for name in names if _shape(checkpoint, name) != _shape(model, name))


def _shape(entries: Mapping[str, Entry], name: str) -> Shape | None:
    return entries[name].shape if name in entries else None


def _idle(patterns: Collection[str], made: Mapping[str, Bridge]) -> Iterator[str]:
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in made):
            yield f"nothing to bridge for {pattern!r}: no size differs"


def _bridge(fields: Sequence[str], name: str, source: Entry, target: Entry) -> Bridge | str:
    """The bridge, or why there is none."""
    if len(fields) > 1:
        return f"named by {' and by '.join(fields)}"
    return _resampling(name, source, target) if fields == ["interpolate"] else _overlap(source, target)


def _overlap(source: Entry, target: Entry) -> Overlap | str:
    if len(source.shape) != len(target.shape):
        return f"shape {list(source.shape)}, model has {list(target.shape)}: another number of axes"
    made = Overlap(source.shape, target.shape)
    return made if prod(made.shape) else f"{_sizes(source.shape, target.shape)} have nothing in common"


def _resampling(name: str, source: Entry, target: Entry) -> Resampling | Kernel | str:
    if not source.dtype.startswith(("F", "BF")) or not target.dtype.startswith(("F", "BF")):
        return f"dtype {source.dtype}, model has {target.dtype}: only floating-point values have something between them"
    if not prod(source.shape) or not prod(target.shape):
        return f"{_sizes(source.shape, target.shape)}: there is nothing to interpolate"
    if _BUCKETS in name:
        return "its entries stand for distances in words, in buckets, not for positions of a grid"
    axes = [n for n, (old, new) in enumerate(zip(source.shape, target.shape, strict=False)) if old != new]
    if len(source.shape) == len(target.shape) == 4:
        return _image(source.shape, target.shape, axes)
    rows = len(source.shape) - 2  # where positions are: [positions, channels], [1, positions, channels]
    if len(source.shape) != len(target.shape) or rows not in (0, 1) or prod(source.shape[:rows]) != 1 or axes != [rows]:
        return f"{_sizes(source.shape, target.shape)} differ in more than a number of positions"
    relative = bool(_RELATIVE.search(name.rpartition(".")[2]))
    return (_table if relative else _embedding)(source.shape, target.shape, rows)


def _image(source: Shape, target: Shape, axes: list[int]) -> Resampling | Kernel | str:
    """[1, channels, height, width] or [1, height, width, channels]: what differs tells which. Else a kernel."""
    if {2, 3}.issuperset(axes) and source[0] != 1:
        return Kernel(source, target)
    if source[0] != 1 or not ({2, 3}.issuperset(axes) or {1, 2}.issuperset(axes)):
        return f"{_sizes(source, target)} differ in more than a grid"
    first = 1 if 1 in axes else 2
    old, new = ((shape[first], shape[first + 1]) for shape in (source, target))
    return Resampling(source, target, first, 2, old, new)


def _table(source: Shape, target: Shape, axis: int) -> Resampling | str:
    """(2h-1)(2w-1) relative positions of a square window, and three more for a class token at their end, as in BEiT."""
    for after in (0, 3):
        old, new = _side(source[axis] - after), _side(target[axis] - after)
        if old % 2 and new % 2:
            return Resampling(source, target, axis, 1, (old, old), (new, new), after=after, smooth=False)
    return f"{source[axis]} -> {target[axis]}: not the relative positions of square windows"


def _embedding(source: Shape, target: Shape, axis: int) -> Resampling | str:
    """The positions of a square grid, and tokens before them."""
    for before in range(_TOKENS + 1):
        old, new = _side(source[axis] - before), _side(target[axis] - before)
        if old > 1 and new > 1:
            return Resampling(source, target, axis, 1, (old, old), (new, new), before=before)
    return f"{source[axis]} -> {target[axis]}: not square grids after the same number of tokens, 0 to {_TOKENS}"


def _side(count: int) -> int:
    """Of a square of so many positions; 0 for a number that is none."""
    side = isqrt(max(count, 0))
    return side if side * side == count else 0


def _sizes(source: Shape, target: Shape) -> str:
    return f"{list(source)} -> {list(target)}"
