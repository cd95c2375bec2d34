"""A checkpoint as an index of tensors over byte ranges: what every format produces and every plan starts from.

Holds no bytes and does no I/O. Names of tensors are opaque keys, never paths.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any

from preheat.errors import CheckpointValidationError

#: Bytes of one element, by the dtype names of the safetensors format.
ITEMSIZE: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip

#: Those of eight bits that are floating.
FLOAT8 = tuple(dtype for dtype in ITEMSIZE if dtype.startswith("F8_"))


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One contiguous span of a blob that the format declares: a zip member, or a tensor of a safetensors file.

    Equal to any that says the same, however it keeps that.
    """

    name: str
    start: int
    stop: int
    crc32: int | None = None  # None: the file carries none

    @property
    def size(self) -> int:
        """Bytes."""
        return self.stop - self.start

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self._facts() == other._facts()

    def __hash__(self) -> int:
        return hash(self._facts())

    def _facts(self) -> tuple[int, int, str, int | None]:
        return self.start, self.stop, self.name, self.crc32


@dataclass(frozen=True, slots=True)
class Tensor:
    """A dense strided tensor inside a record. `offset` is in bytes from the record's start, `strides` in elements.

    A tensor that was saved in `parts` has a record of no bytes; its values are where its parts say. The parts are boxes
    of the tensor, or runs of its elements in a row: their corners then have one number whatever its shape.
    """

    dtype: str
    shape: tuple[int, ...]
    record: Record
    offset: int = 0
    strides: tuple[int, ...] | None = None  # None: row-major
    cast: str | None = None  # dtype that the values are given on their way; None: the one they are stored in
    parts: tuple[Part, ...] = ()

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of the dense values."""
        return self.elements * ITEMSIZE[self.dtype]

    @property
    def final_dtype(self) -> str:
        """Dtype of the values where they arrive."""
        return self.cast or self.dtype

    @property
    def final_size(self) -> int:
        """Bytes of the dense values where they arrive."""
        return self.elements * ITEMSIZE[self.final_dtype]

    @property
    def start(self) -> int:
        """First byte in the blob."""
        return self.record.start + self.offset

    @property
    def contiguous(self) -> bool:
        """Whether the values lie in row-major order without gaps."""
        if self.parts:
            return False
        return self.strides is None or self.elements == 0 or self.strides == row_major(self.shape, self.strides)

    def extent(self) -> int:
        """Bytes from `start` to one past the last element that the strides reach."""
        if self.elements == 0 or self.parts:
            return 0
        if self.strides is None:
            return self.size
        last = sum((length - 1) * stride for length, stride in zip(self.shape, self.strides, strict=True))
        return (last + 1) * ITEMSIZE[self.dtype]

    @property
    def space(self) -> tuple[int, ...]:
        """The shape in which the parts' corners are places."""
        in_a_row = self.parts and len(self.parts[0].corner) != len(self.shape)
        return (self.elements,) if in_a_row else self.shape

    @property
    def place(self) -> object:
        """Equal for tied tensors: the same bytes, read the same way."""
        if self.parts:
            return tuple((part.corner, part.tensor.place) for part in self.parts), self.shape
        return self.start, self.dtype, self.shape, None if self.contiguous else self.strides

    def stored(self) -> tuple[Tensor, ...]:
        """The tensors, each in one record, that hold the values: itself, or its parts."""
        return tuple(part.tensor for part in self.parts) or (self,)

    def check_inside(self, name: str) -> None:
        """Raise CheckpointValidationError when the tensor reaches outside its record."""
        if self.offset < 0 or self.offset + self.extent() > self.record.size or min(self.strides or (0,)) < 0:
            raise CheckpointValidationError(
                f"tensor {name!r} points outside its storage {self.record.name!r}: bytes {self.offset}..."
                f"{self.offset + self.extent()} of {self.record.size}"
            )


@dataclass(frozen=True, slots=True)
class Part:
    """A box of a tensor, stored on its own; `corner` is the place of its first element in the whole."""

    corner: tuple[int, ...]
    tensor: Tensor

    @property
    def end(self) -> tuple[int, ...]:
        """One past the last element, on every axis."""
        return tuple(c + n for c, n in zip(self.corner, self.tensor.shape, strict=True))


def run_start(part: Part, space: tuple[int, ...]) -> int | None:
    """The place of a part's first element when all elements of `space` are put in a row; None if others lie between."""
    inner = len(space)
    while inner and part.tensor.shape[inner - 1] == space[inner - 1]:
        inner -= 1
    if any(length != 1 for length in part.tensor.shape[: max(inner - 1, 0)]):
        return None
    start = 0
    for place, length in zip(part.corner, space, strict=True):
        start = start * length + place
    return start


#: Boxes that lie beside one another are compared in pairs; 2,000 columns of one tensor are as many as anyone has.
MAX_COMPARISONS = 2_000_000


def joined(name: str, dtype: str, shape: tuple[int, ...], parts: Iterable[Part]) -> Tensor:
    """The tensor that `parts` make up; raises CheckpointValidationError unless they tile it.

    They are boxes of the tensor or, with corners of one number, runs of its elements in a row.
    """
    parts = list(parts)
    space = (prod(shape),) if parts and len(parts[0].corner) == 1 else shape
    filled = sorted((part for part in parts if part.tensor.elements), key=lambda part: part.corner)
    for part in filled:
        inside = len(part.corner) == len(part.tensor.shape) == len(space) and all(c >= 0 for c in part.corner)
        if part.tensor.dtype != dtype or not inside or any(e > n for e, n in zip(part.end, space, strict=True)):
            raise CheckpointValidationError(
                f"a part of tensor {name!r}, {part.tensor.dtype} {part.tensor.shape} at {part.corner}, "
                f"does not belong in {dtype} {shape}"
            )
    if sum(part.tensor.elements for part in filled) != prod(shape) or _overlap(filled):
        raise CheckpointValidationError(
            f"the {len(filled)} parts of tensor {name!r} do not make up its shape {shape}",
            remedy="Save the checkpoint again, or copy the files of all ranks",
        )
    if len(filled) == 1 and filled[0].tensor.shape == shape:
        return filled[0].tensor
    start = filled[0].tensor.start if filled else 0
    return Tensor(dtype, shape, Record(name, start, start), parts=tuple(filled))


def _overlap(parts: list[Part]) -> bool:
    """Whether two boxes share an element; they are sorted by their corners."""
    beside: list[Part] = []  # those that reach as far as the present one on the first axis
    room = MAX_COMPARISONS
    for part in parts:
        beside = [other for other in beside if other.corner == () or other.end[0] > part.corner[0]]
        room -= len(beside)
        if room < 0:
            raise CheckpointValidationError(f"a tensor has {len(parts)} parts that lie beside one another, as bombs do")
        for other in beside:
            if all(a < d and c < b for a, b, c, d in zip(part.corner, part.end, other.corner, other.end, strict=True)):
                return True
        beside.append(part)
    return False


def row_major(shape: tuple[int, ...], strides: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Strides, in elements, of a dense row-major tensor; lengths of one keep the given stride, which nothing reads."""
    expected, step = [0] * len(shape), 1
    for axis in range(len(shape) - 1, -1, -1):
        expected[axis] = strides[axis] if strides is not None and shape[axis] == 1 else step
        step *= shape[axis]
    return tuple(expected)


def distinct(tensors: Mapping[str, Tensor]) -> tuple[list[str], dict[str, str]]:
    """The names without those whose tensors are tied to another's before them, and these with the name of the other."""
    starts = [tensor.start for tensor in tensors.values()]
    shared = {one for one, other in pairwise(sorted(starts)) if one == other}  # few; all places would take much room
    names, aliases, first = list[str](), dict[str, str](), dict[object, str]()
    for name, start in zip(tensors, starts, strict=True):
        known = first.setdefault(tensors[name].place, name) if start in shared and tensors[name].size else name
        if known == name:
            names.append(name)
        else:
            aliases[name] = known
    return names, aliases


@dataclass(frozen=True)
class Origin:
    """One of the checkpoints that an index was merged from; its bytes end where those of the next one begin."""

    uri: str
    version: str
    size: int  # bytes
    format: str
    layout: str
    start: int  # of its first byte, which belongs to no tensor: every format has something before them
    excluded_tensors: int  # weights that were not taken
    excluded_bytes: int


@dataclass(frozen=True)
class Index:
    """Everything a checkpoint declares about itself.

    `tensors` are the model's weights by name; `state` is the tree of all the rest (epoch, optimizer, hyper-parameters):
    its leaves are JSON values, `Tensor`s and opaque `Node`s (see `formats.inert.reader`). `opaque` names the classes
    that were found and not interpreted.
    """

    format: str  # torch-zip, torch-legacy, safetensors
    layout: str  # lightning, state_dict, model_state_dict, model, module, raw, safetensors
    tensors: Mapping[str, Tensor]
    state: Any = field(default_factory=dict)
    opaque: tuple[str, ...] = ()
    metadata_bytes: int = 0  # read to build the index: directory, header, pickle
    average: str = ""  # where weights that are averages in place of the raw ones were; nothing for raw ones
    origins: tuple[Origin, ...] = ()  # the checkpoints that it was merged from, in the order of their bytes

    @property
    def parameters(self) -> int:
        """Elements of all distinct weights; an alias counts once."""
        return sum(self.tensors[name].elements for name in distinct(self.tensors)[0])

    def origin_of(self, name: str) -> int:
        """Which of `origins` a tensor is from, whatever it has been called since."""
        return bisect_left(self.origins, self.tensors[name].start, key=lambda origin: origin.start) - 1

    def state_tensors(self) -> Iterator[Tensor]:
        """Every tensor outside the weights, such as the optimizer's moments."""
        return tensors_in(self.state)


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Every tensor of a tree."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, Tensor):
            yield node
        elif isinstance(node, Mapping):
            pending.extend(node.values())
        elif isinstance(node, (list, tuple)):
            pending.extend(node)
