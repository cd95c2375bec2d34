"""This process's part of a tensor that is spread over a mesh of processes: FSDP2, tensor parallelism, both.

What torch's placements mean is said here once, as cuts; that it is what torch made of the tensor is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from preheat.errors import CheckpointIncompatibleError
from preheat.strategies.filling.slices import Cut, Region, region_of, shape_of

#: What nearly all tensors are; of these none has to be asked what else it is, which takes a microsecond each time.
_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})


@dataclass(frozen=True)
class Target:
    """A tensor of this process, and which region of the whole it is; None: it is the whole."""

    tensor: torch.Tensor
    region: Region | None = None


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether `tensor` is of torch's own class, and no other that stands for something else."""
    return type(tensor) in _PLAIN


def is_spread(tensor: torch.Tensor) -> bool:
    """Whether `tensor` stands for one that several processes hold together."""
    return not is_plain(tensor) and hasattr(tensor, "placements") and hasattr(tensor, "device_mesh")


def local(tensor: Any) -> torch.Tensor:
    """The memory of this process behind `tensor`."""
    held: torch.Tensor = tensor
    if is_spread(tensor):
        with torch.no_grad():
            held = tensor.to_local()
    return held


def target_of(name: str, tensor: torch.Tensor) -> Target:
    """Where the values of `tensor` go; raises CheckpointIncompatibleError for placements that are not known."""
    if not is_spread(tensor):
        return Target(tensor)
    held, spread = local(tensor), _Spread(tensor)
    if not spread.here:
        return Target(held, tuple(() for _ in tensor.shape))
    region = region_of(tensor.shape, spread.cuts(name))
    if shape_of(region) != tuple(held.shape) and prod(shape_of(region)) + held.numel():
        raise CheckpointIncompatibleError(
            f"parameter {name!r} is placed as {spread.placements}: of {list(tensor.shape)} this process should hold "
            f"{list(shape_of(region))}, it holds {list(held.shape)}",
            remedy="Apply the checkpoint before the model is sharded",
        )
    return Target(held, region)


def copy_number(tensor: Any) -> tuple[int, int] | None:
    """Which of the equal copies of its part this process holds, and how many there are; None: it holds nothing."""
    spread = _Spread(tensor)
    return spread.copy_number() if spread.here else None


def with_first(tensor: Any) -> bool:
    """Whether the first process of all is one of those that hold it together."""
    return 0 in tensor.device_mesh.mesh.flatten().tolist()


class _Spread:
    """A DTensor's mesh and placements; torch.distributed need not be imported to read them."""

    def __init__(self, tensor: Any) -> None:
        self.placements: Sequence[Any] = tensor.placements
        self._sizes: Sequence[int] = tensor.device_mesh.shape
        place: Sequence[int] | None = tensor.device_mesh.get_coordinate()
        self.here = place is not None  # else this is no process of the mesh, and holds nothing
        self._place = place or ()

    def cuts(self, name: str) -> Iterator[Cut]:
        """In the order in which the processes' parts came about."""
        late = [axis for axis in range(len(self.placements)) if self._cut_last(axis)]
        for axis in [*(axis for axis in range(len(self.placements)) if axis not in late), *reversed(late)]:
            placement = self.placements[axis]
            if placement.is_replicate():
                continue
            if placement.is_partial() or not hasattr(placement, "dim"):
                raise CheckpointIncompatibleError(
                    f"parameter {name!r} is placed as {placement}, which is no part of the whole",
                    remedy="Apply the checkpoint before the model is sharded",
                )
            blocks = 1 if axis in late else getattr(placement, "split_factor", 1)
            yield Cut(placement.dim, self._sizes[axis], self._place[axis], blocks)

    def copy_number(self) -> tuple[int, int]:
        """Number and count of the processes that hold the same."""
        number, count = 0, 1
        for placement, size, place in zip(self.placements, self._sizes, self._place, strict=True):
            if placement.is_replicate():
                number, count = number * size + place, count * size
        return number, count

    def _cut_last(self, axis: int) -> bool:
        """FSDP shards what tensor parallelism left: its axis comes first in the mesh and was cut last."""
        placement, rest = self.placements[axis], range(axis + 1, len(self.placements))
        if (blocks := getattr(placement, "split_factor", 1)) == 1:
            return False
        return bool(blocks == prod(self._sizes[n] for n in rest if _axis(self.placements[n]) == placement.dim))


def _axis(placement: Any) -> int | None:
    return getattr(placement, "dim", None)
