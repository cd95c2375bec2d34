"""Which bytes of the source go where in the output: a pure function of index and stages, made before a byte moves.

Tied weights travel once, what a `convert` stage excludes not at all. Empty tensors are in the header and in no move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from preheat.checks import Checks
from preheat.convert import Convert
from preheat.formats import safetensors
from preheat.index import Index, Record, Tensor
from preheat.spec import PipelineSpec
from preheat.verify import Verify


@dataclass(frozen=True, slots=True)
class Move:
    """One tensor's way from the source into the output file: `tensor.final_size` bytes at `target`.

    Bytes [start, stop) of the source must pass: the tensor's own, or its whole record where a CRC is checked.
    A tensor that is not `contiguous` has to be gathered on the way.
    """

    name: str
    tensor: Tensor
    target: int  # offset in the output file
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Span:
    """A run of source bytes to read in one go, and the moves that lie in it; gaps between them are read and dropped."""

    start: int
    stop: int
    moves: tuple[Move, ...]

    @property
    def records(self) -> tuple[Record, ...]:
        """The records that pass as a whole, in the order of their bytes."""
        found = {move.tensor.record: None for move in self.moves}
        whole = (record for record in found if self.start <= record.start and record.stop <= self.stop)
        return tuple(sorted(whole, key=lambda record: record.start))


@dataclass(frozen=True)
class Plan:
    """What the transfer executes: `header` and then every move make an output file of `output_bytes`."""

    header: bytes
    moves: tuple[Move, ...]  # by position in the source
    aliases: Mapping[str, str]  # alias -> the name that is in the file
    output_bytes: int
    selected_bytes: int  # of the source, each byte counted once
    left_tensors: int
    left_bytes: int
    index: Index  # of what is taken, as it arrives: names and dtypes are those of the output, aliases included
    excluded_tensors: int = 0
    excluded_bytes: int = 0  # of the source, each byte counted once


def checks_of(spec: PipelineSpec) -> Checks:
    """What the pipeline's `verify` stage asks for, or what is checked without one."""
    stages = [stage for stage in spec.stages if isinstance(stage, Verify)]
    return Checks(stages[-1].sha256, stages[-1].crc32, stages[-1].finite) if stages else Checks()


def converted(index: Index, spec: PipelineSpec) -> Index:
    """What the pipeline takes of the index, under the names and dtypes that its `convert` stage gives."""
    for stage in spec.stages:
        if isinstance(stage, Convert):
            index = stage.apply(index)
    return index


def make_plan(index: Index, spec: PipelineSpec) -> Plan:
    """The plan that brings the index's weights into one safetensors file."""
    taken = converted(index, spec)
    names, aliases = _distinct(taken.tensors)
    declared = {name: (taken.tensors[name].final_dtype, taken.tensors[name].shape) for name in names}
    header = safetensors.header(declared, {"format": "pt"})
    placed = safetensors.offsets(declared)
    whole = checks_of(spec).crc32
    moves = sorted(
        (
            _move(name, taken.tensors[name], len(header) + placed[name][0], whole)
            for name in names
            if taken.tensors[name].size
        ),
        key=lambda move: (move.start, move.stop, move.target),
    )
    left = list(index.state_tensors())
    selected = _bytes_of(taken.tensors[name] for name in names)
    return Plan(
        header=header,
        moves=tuple(moves),
        aliases=aliases,
        output_bytes=len(header) + max((stop for _, stop in placed.values()), default=0),
        selected_bytes=selected,
        left_tensors=len(left),
        left_bytes=sum(tensor.size for tensor in left),
        index=taken,
        excluded_tensors=len(index.tensors) - len(taken.tensors),
        excluded_bytes=_bytes_of(index.tensors.values()) - selected,
    )


def coalesce(moves: Iterable[Move], *, max_gap: int, max_length: int) -> tuple[Span, ...]:
    """Spans that cover `moves`, each byte once, bridging gaps of at most `max_gap` bytes.

    A span is longer than `max_length` only where one tensor is, or several that share their bytes.
    """
    ordered = sorted(moves, key=lambda move: (move.start, move.stop, move.target))
    single = (_Run(move.start, move.stop, [move]) for move in ordered)
    units = _join(single, lambda last, run: run.start < last.stop)
    runs = _join(units, lambda last, run: run.start - last.stop <= max_gap and run.stop - last.start <= max_length)
    return tuple(Span(run.start, run.stop, tuple(run.moves)) for run in runs)


@dataclass
class _Run:
    start: int
    stop: int
    moves: list[Move]


def _join(runs: Iterable[_Run], fits: Callable[[_Run, _Run], bool]) -> list[_Run]:
    joined: list[_Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        if last and fits(last, run):
            last.stop = max(last.stop, run.stop)
            last.moves += run.moves
        else:
            joined.append(run)
    return joined


def _move(name: str, tensor: Tensor, target: int, whole_record: bool) -> Move:
    record = tensor.record
    if whole_record and record.crc32 is not None:
        return Move(name, tensor, target, record.start, record.stop)
    return Move(name, tensor, target, tensor.start, tensor.start + tensor.extent())


def _distinct(tensors: Mapping[str, Tensor]) -> tuple[list[str], dict[str, str]]:
    names: list[str] = []
    aliases: dict[str, str] = {}
    first: dict[object, str] = {}
    for name, tensor in tensors.items():
        strides = None if tensor.contiguous else tensor.strides
        key = (tensor.start, tensor.dtype, tensor.shape, strides)
        if tensor.size and key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            names.append(name)
    return names, aliases


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the source that the tensors reach, each counted once."""
    total = stop = 0
    for start, end in sorted((tensor.start, tensor.start + tensor.extent()) for tensor in tensors):
        total += max(0, end - max(start, stop))
        stop = max(stop, end)
    return total
