"""Which bytes of the source go where in the output: a pure function of index and stages, made before a byte moves.

Tied weights travel once, what a `convert` stage excludes not at all. Empty tensors are in the header and in no move.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

from preheat.checks import Checks, Findings
from preheat.convert import Convert
from preheat.formats import safetensors
from preheat.formats.layouts import averaged
from preheat.index import ITEMSIZE, Index, Tensor, distinct, run_start, tensors_in
from preheat.moves import Move, Moves
from preheat.spec import PipelineSpec
from preheat.verify import Verify


@dataclass(frozen=True, slots=True)
class Gathering:
    """A tensor whose values lie in another order in the source: `tensor.final_size` bytes for `target`."""

    name: str
    tensor: Tensor
    target: int


@dataclass(frozen=True)
class Amount:
    """So many tensors, and their bytes."""

    tensors: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What the transfer executes: `header`, moves and gatherings make an output file of `output_bytes`."""

    header: safetensors.Header
    moves: Moves
    gatherings: tuple[Gathering, ...]
    aliases: Mapping[str, str]  # alias -> the name that is in the file
    output_bytes: int
    selected_bytes: int  # of the source, each byte counted once
    left: Mapping[str, Amount]  # of training state, by the entry of the checkpoint that holds it
    parameters: int  # elements of the output's tensors
    index: Index  # of what is taken, as it arrives: names and dtypes are those of the output, aliases included
    excluded_tensors: int = 0
    excluded_bytes: int = 0  # of the source, each byte counted once

    @property
    def left_tensors(self) -> int:
        """How many of training state are left."""
        return sum(each.tensors for each in self.left.values())

    @property
    def left_bytes(self) -> int:
        """Their bytes."""
        return sum(each.bytes for each in self.left.values())


def verify_of(spec: PipelineSpec) -> Verify:
    """The `verify` stage that counts, or what is checked without one."""
    stages = [stage for stage in spec.stages if isinstance(stage, Verify)]
    return stages[-1] if stages else Verify(finite=False)


def checks_of(spec: PipelineSpec) -> Checks:
    """What the pipeline checks while bytes pass."""
    return verify_of(spec).checks


def converted(index: Index, spec: PipelineSpec, findings: Findings) -> Index:
    """What the pipeline takes of the index, as its `convert` stage makes it and its `verify` stages expect it."""
    for stage in spec.stages:
        if isinstance(stage, Convert):
            index = stage.apply(index)
        elif isinstance(stage, Verify):
            stage.compare(index, findings)
    return index


def make_plan(index: Index, spec: PipelineSpec, findings: Findings | None = None) -> Plan:
    """The plan that brings the index's weights into one safetensors file.

    Raises CheckpointIncompatibleError for another index than the pipeline expects, unless `findings` keep it.
    """
    index = averaged(index, spec.ema) if spec.ema else index
    taken = converted(index, spec, findings or Findings())
    names, aliases = distinct(taken.tensors)
    declared = _declared(taken.tensors, names)
    header = safetensors.Header(declared, {"format": "pt"})
    gatherings: list[Gathering] = []
    moves = Moves(taken.tensors, _placed(taken.tensors, declared, header.size, checks_of(spec).crc32, gatherings))
    selected = _bytes_of(taken.tensors[name] for name in names)
    return Plan(
        header=header,
        moves=moves,
        gatherings=tuple(gatherings),
        aliases=aliases,
        output_bytes=header.size + sum(prod(shape) * ITEMSIZE[dtype] for dtype, shape in declared.values()),
        selected_bytes=selected,
        left=_left(index),
        parameters=sum(prod(shape) for _, shape in declared.values()),
        index=taken,
        excluded_tensors=len(index.tensors) - len(taken.tensors) + sum(each.excluded_tensors for each in index.origins),
        excluded_bytes=(0 if taken is index else _bytes_of(index.tensors.values()) - selected)
        + sum(each.excluded_bytes for each in index.origins),
    )


def _declared(tensors: Mapping[str, Tensor], names: Iterable[str]) -> safetensors.Declared:
    """What the output says of its tensors; they share what is alike."""
    kinds: dict[tuple[str, tuple[int, ...]], tuple[str, tuple[int, ...]]] = {}
    described = ((name, tensors[name]) for name in names)
    kinded = ((name, (tensor.final_dtype, tensor.shape)) for name, tensor in described)
    return {name: kinds.setdefault(kind, kind) for name, kind in kinded}


def _placed(
    tensors: Mapping[str, Tensor], declared: safetensors.Declared, data: int, whole: bool, gatherings: list[Gathering]
) -> Iterator[tuple[int, Move]]:
    """The moves of all tensors, each with its part's position; what has to be gathered is added to `gatherings`."""
    for name, start, _ in safetensors.offsets(declared):
        tensor, target = tensors[name], data + start
        runs = _runs(tensor)
        yield from _moves(name, tensor, target, runs, whole)
        if runs is None:
            gatherings.append(Gathering(name, tensor, target))


def _left(index: Index) -> dict[str, Amount]:
    """Tensors of training state, where there are some."""
    left: dict[str, Amount] = {}
    for key, entry in index.state.items() if isinstance(index.state, Mapping) else ():
        for tensor in tensors_in(entry):
            before = left.get(name := str(key)[:_KEY], Amount(0, 0))
            left[name] = Amount(before.tensors + 1, before.bytes + tensor.size)
    return left


def _moves(
    name: str, tensor: Tensor, target: int, runs: list[int] | None, whole_records: bool
) -> Iterator[tuple[int, Move]]:
    """The ways of a tensor's parts; of one that has to be gathered, what passes because of its checksums."""
    for position, stored in enumerate(tensor.stored()):
        whole = whole_records and stored.record.crc32 is not None
        if not stored.size or (runs is None and not whole):
            continue
        place = None if runs is None else target + runs[position] * ITEMSIZE[tensor.final_dtype]
        moved = replace(stored, cast=tensor.cast) if tensor.parts else stored
        reach = (stored.record.start, stored.record.stop) if whole else reach_of(stored)
        yield position, Move(name, moved, place, *reach)


def _runs(tensor: Tensor) -> list[int] | None:
    """First element in the whole of every stored part; None unless all lie in a row there and where they are stored."""
    if not all(stored.contiguous for stored in tensor.stored()):
        return None
    if not tensor.parts:
        return [0]
    starts = [run_start(part, tensor.space) for part in tensor.parts]
    return None if None in starts else [start for start in starts if start is not None]


def reach_of(tensor: Tensor) -> tuple[int, int]:
    """The bytes of the source from the first element to behind the last."""
    return tensor.start, tensor.start + tensor.extent()


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the source that the tensors reach, each counted once."""
    total = stop = 0
    reaches = (reach_of(stored) for tensor in tensors for stored in tensor.stored())
    for both in sorted(start << 64 | end for start, end in reaches):  # half as much room as pairs
        start, end = both >> 64, both & _LAST
        total += max(0, end - max(start, stop))
        stop = max(stop, end)
    return total


_LAST = (1 << 64) - 1
_KEY = 120  # characters of a key
