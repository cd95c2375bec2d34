"""What each process writes of tensors that several hold together: the boxes of them that it has, every box once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from preheat.formats.saved_shards import MODEL, STATE, Corner, header_of, shard_name
from preheat.saving.file import Written, write_tensors
from preheat.saving.gathering import declared
from preheat.strategies.filling.shards import copy_number, is_spread, target_of, with_first
from preheat.strategies.filling.slices import boxes_of
from preheat.transfer.checksum import crc32


@dataclass(frozen=True)
class Shard:
    """A file of one process: boxes by the names of their tensors, and where in these they begin."""

    name: str
    boxes: Mapping[str, torch.Tensor]
    corners: Mapping[str, Corner]

    @property
    def nbytes(self) -> int:
        """Of all its boxes."""
        return sum(box.nbytes for box in self.boxes.values())

    def write(self, folder: Path, bring: Callable[[str], torch.Tensor]) -> Written:
        """Write it to a folder; raises OSError and NoSpaceError."""
        return write_tensors(folder / self.name, declared(self.boxes), bring, header_of(self.corners))


def shards_of(files: Sequence[Mapping[str, torch.Tensor]], rank: int) -> list[Shard]:
    """The files of a process, given the weights and, if there is one, the training state of all.

    Raises CheckpointIncompatibleError for a tensor that is spread in a way that is not known.
    """
    kinds = zip((MODEL, STATE), files, strict=False)
    return [shard for kind, tensors in kinds for shard in _shards(kind, tensors, rank)]


def _shards(kind: str, tensors: Mapping[str, torch.Tensor], rank: int) -> list[Shard]:
    """More than one where a process has several boxes of one tensor."""
    files: list[tuple[dict[str, torch.Tensor], dict[str, Corner]]] = []
    for name, tensor in tensors.items():
        for number, (corner, box) in enumerate(_boxes(name, tensor, rank)):
            if number == len(files):
                files.append(({}, {}))
            files[number][0][name], files[number][1][name] = box, corner
    return [Shard(shard_name(kind, rank, number, len(files)), *each) for number, each in enumerate(files)]


def _boxes(name: str, tensor: torch.Tensor, rank: int) -> Iterator[tuple[Corner, torch.Tensor]]:
    """Those that are for this process to write.

    Of groups that hold the same tensor, as those of tensor parallelism within DDP, the one of the first process writes;
    processes of one group that hold the same part share it out by the tensors' names.
    """
    if not is_spread(tensor) or not tensor.numel():
        if rank == 0:
            yield (0,) * tensor.dim(), tensor if tensor.numel() else torch.empty(tensor.shape, dtype=tensor.dtype)
        return
    copy = copy_number(tensor) if with_first(tensor) else None
    if copy is None or crc32(name.encode()) % copy[1] != copy[0]:
        return
    target = target_of(name, tensor)
    with torch.no_grad():
        for corner, held in boxes_of(target.region or ()):
            yield corner, target.tensor[held]


def alike(files: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, object]:
    """What all processes have to have: the weights, and what is spread of the state; its rest is the first one's."""
    weights, *states = files
    spread = {name: tensor for state in states for name, tensor in state.items() if is_spread(tensor)}
    return {**declared(weights), **declared(spread)}
