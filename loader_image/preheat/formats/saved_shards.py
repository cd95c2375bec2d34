"""Checkpoints of Preheat's that several processes wrote, each the boxes of the tensors that it holds.

The files are those of torch.distributed.checkpoint's HuggingFaceStorageWriter: safetensors, whose header says where in
the whole each box begins. torch's own reader reads them, and needs no manifest for it.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from preheat.errors import CheckpointLoadError
from preheat.formats.safetensors import METADATA
from preheat.index import Index, Part, Tensor, joined

#: What a file holds boxes of: the weights, or the training state.
MODEL, STATE = "model", "state"

_SHARD = re.compile(r"^shard-\d{5,}-(model|state)-\d{5,}-of-\d{5,}\.safetensors$")
_OFFSETS, _INFO, _VERSION = "saved_offsets", "DCP_SHARDING_INFO", "DCP_VERSION"

#: Place of a box's first element in the whole.
Corner = tuple[int, ...]


def shard_name(kind: str, rank: int, number: int, count: int) -> str:
    """The file in which a process keeps the `number`th of its boxes of every tensor, of `count` at most; from 0."""
    return f"shard-{rank + 1:05d}-{kind}-{number + 1:05d}-of-{count:05d}.safetensors"


def kind_of(file: str) -> str | None:
    """Whether a file holds boxes of the weights or of the training state; None for any other file."""
    found = _SHARD.match(file)
    return found[1] if found else None


def header_of(corners: Mapping[str, Corner]) -> dict[str, str]:
    """What the header of a file says of its boxes."""
    told = {name: {_OFFSETS: corner} for name, corner in corners.items()}
    return {_VERSION: "1.0", _INFO: json.dumps(told, separators=(",", ":"))}


def put_together(files: Iterable[tuple[str, Index]]) -> dict[str, Tensor]:
    """The whole tensors of all files' boxes; raises where boxes are absent, overlap or are told nothing of."""
    parts: dict[str, list[Part]] = defaultdict(list)
    for file, index in files:
        told = _told(file, index)
        for name, tensor in index.tensors.items():
            parts[name].append(Part(_corner(file, name, tensor, told.get(name)), tensor))
    return {name: _whole(name, boxes) for name, boxes in parts.items()}


def _whole(name: str, boxes: list[Part]) -> Tensor:
    shape = tuple(max(ends) for ends in zip(*(box.end for box in boxes), strict=True))
    return joined(name, boxes[0].tensor.dtype, shape, boxes)


def _told(file: str, index: Index) -> Mapping[str, Any]:
    try:
        told = json.loads(index.state[METADATA][_INFO])
    except (KeyError, TypeError, ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise CheckpointLoadError(f"the header of {file} does not say where its tensors lie in the whole")
    return told


def _corner(file: str, name: str, tensor: Tensor, told: Any) -> Corner:
    corner = told.get(_OFFSETS) if isinstance(told, dict) else None
    if isinstance(corner, list) and len(corner) == len(tensor.shape) and all(map(_is_place, corner)):
        return tuple(corner)
    raise CheckpointLoadError(f"the header of {file} does not say where {name!r:.200} lies in the whole")


def _is_place(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63
