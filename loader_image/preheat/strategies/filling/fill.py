"""Moves bytes from a blob into the existing tensors of a model: no second copy of the model, nothing is replaced.

A contiguous CPU tensor of the same dtype is read into directly, by several threads; all others, on whatever device,
through a small ring of slots. Parameters keep their identity, their hooks and `requires_grad`. Of a tensor that is
spread over several processes only the bytes of this process's part are read.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from preheat.blob import Blob
from preheat.checks import Checks
from preheat.strategies.filling.lanes import lane_to
from preheat.strategies.filling.moves import Move, part_of
from preheat.strategies.filling.reads import execute, plan_reads
from preheat.strategies.filling.ring import pour
from preheat.strategies.filling.staging import ALIGNMENT, lots_of
from preheat.strategies.filling.tensors import read_tensor


def fill(blob: Blob, moves: Iterable[Move]) -> int:
    """Execute the moves and return the bytes read; raises what the blob raises, with the model half filled."""
    moves = [part for move in moves for part in move.of_parts() if part.target.numel()]
    moves.sort(key=lambda move: move.source.start)
    direct: list[Move] = []
    staged: list[Move] = []
    scattered: list[Move] = []
    for move in moves:
        (direct if move.direct else staged if move.source.contiguous else scattered).append(move)
    with torch.no_grad():
        execute(blob, plan_reads(direct), sum(move.size for move in direct))
        torch.autograd.graph.increment_version([move.target for move in direct])
        for device in dict.fromkeys(move.target.device for move in staged):
            _through_ring(blob, [move for move in staged if move.target.device == device], device)
        for move in scattered:
            values = read_tensor(blob, move.source, Checks(crc32=False))
            move.target.detach().copy_(part_of(values, move.region))
    return sum(move.size for move in moves)


def _through_ring(blob: Blob, moves: list[Move], device: torch.device) -> None:
    lane = lane_to(device)
    limit = min(lane.slot, sum(move.source.size + ALIGNMENT for move in moves))
    pour(blob, lots_of(moves, limit), lane, limit)
