"""Which bytes of the source go where in the output: a pure function of index and stages, made before a byte moves.

Tied weights travel once, what a `convert` stage excludes not at all. Empty tensors are in the header and in no move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from preheat.checks import Checks, Findings
from preheat.convert import Convert
from preheat.formats import safetensors
from preheat.formats.layouts import averaged
from preheat.index import ITEMSIZE, Index, Record, Tensor, run_start
from preheat.spec import PipelineSpec
from preheat.verify import Verify


@dataclass(frozen=True, slots=True)
class Move:
    """A tensor, or a part of one, on its way from the source into the output: `tensor.final_size` bytes at `target`.

    Bytes [start, stop) of the source must pass: the tensor's own, or its whole record where a CRC is checked.
    """

    name: str
    tensor: Tensor
    target: int | None  # offset in the output file; None: the bytes pass to be checked, a Gathering brings the values
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Gathering:
    """A tensor whose values lie in another order in the source: `tensor.final_size` bytes for `target`."""

    name: str
    tensor: Tensor
    target: int


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
    """What the transfer executes: `header`, moves and gatherings make an output file of `output_bytes`."""

    header: bytes
    moves: tuple[Move, ...]  # by position in the source
    gatherings: tuple[Gathering, ...]
    aliases: Mapping[str, str]  # alias -> the name that is in the file
    output_bytes: int
    selected_bytes: int  # of the source, each byte counted once
    left_tensors: int
    left_bytes: int
    index: Index  # of what is taken, as it arrives: names and dtypes are those of the output, aliases included
    excluded_tensors: int = 0
    excluded_bytes: int = 0  # of the source, each byte counted once


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
    names, aliases = _distinct(taken.tensors)
    declared = {name: (taken.tensors[name].final_dtype, taken.tensors[name].shape) for name in names}
    header = safetensors.header(declared, {"format": "pt"})
    placed = safetensors.offsets(declared)
    whole = checks_of(spec).crc32
    moves: list[Move] = []
    gatherings: list[Gathering] = []
    for name in names:
        tensor, target = taken.tensors[name], len(header) + placed[name][0]
        runs = _runs(tensor)
        moves += _moves(name, tensor, target, runs, whole)
        if runs is None:
            gatherings.append(Gathering(name, tensor, target))
    left = list(index.state_tensors())
    selected = _bytes_of(taken.tensors[name] for name in names)
    return Plan(
        header=header,
        moves=tuple(sorted(moves, key=_by_source)),
        gatherings=tuple(gatherings),
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
    single = (_Run(move.start, move.stop, [move]) for move in sorted(moves, key=_by_source))
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


def _by_source(move: Move) -> tuple[int, int, int]:
    return move.start, move.stop, move.target or 0


def _moves(name: str, tensor: Tensor, target: int, runs: list[int] | None, whole_records: bool) -> Iterator[Move]:
    """The ways of a tensor's parts; of one that has to be gathered, what passes because of its checksums."""
    for position, stored in enumerate(tensor.stored()):
        whole = whole_records and stored.record.crc32 is not None
        if not stored.size or (runs is None and not whole):
            continue
        place = None if runs is None else target + runs[position] * ITEMSIZE[tensor.final_dtype]
        moved = replace(stored, cast=tensor.cast) if tensor.parts else stored
        yield Move(name, moved, place, *((stored.record.start, stored.record.stop) if whole else reach_of(stored)))


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


def _distinct(tensors: Mapping[str, Tensor]) -> tuple[list[str], dict[str, str]]:
    names: list[str] = []
    aliases: dict[str, str] = {}
    first: dict[object, str] = {}
    for name, tensor in tensors.items():
        if tensor.size and tensor.place in first:
            aliases[name] = first[tensor.place]
        else:
            first[tensor.place] = name
            names.append(name)
    return names, aliases


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the source that the tensors reach, each counted once."""
    total = stop = 0
    for start, end in sorted(reach_of(stored) for tensor in tensors for stored in tensor.stored()):
        total += max(0, end - max(start, stop))
        stop = max(stop, end)
    return total
