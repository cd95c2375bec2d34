"""Files of torch.save that are parts of a checkpoint: what they hold, with tensors where they are in the whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from preheat.errors import about
from preheat.formats.inert.machine import Pickle
from preheat.formats.inert.values import check_tree
from preheat.formats.metadata import MetadataReader
from preheat.formats.pytorch import zip_file
from preheat.index import Record, Tensor
from preheat.joined_blob import Member


def read_file(file: Member) -> Pickle:
    """What is in it; raises a CheckpointLoadError or CheckpointValidationError that names it."""
    with about(file.name):
        pickle = zip_file.read_tree(MetadataReader(file.blob))
        check_tree(pickle.value)
        return replace(pickle, value=moved(pickle.value, file.start, file.name))


def moved(tree: Any, start: int, name: str) -> Any:
    """A tree without cycles, its tensors moved by `start` bytes; raises where one points outside its storage.

    What is there twice stays one thing: a few bytes can say it a million times.
    """
    known: dict[int, Any] = {}

    def move(value: Any) -> Any:
        if not isinstance(value, (Tensor, dict, list, tuple)):
            return value
        if id(value) not in known:
            known[id(value)] = moved_once(value)
        return known[id(value)]

    def moved_once(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: move(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(map(move, value))
        value.check_inside(name)
        record = value.record
        place = Record(f"{name}: {record.name}", start + record.start, start + record.stop, record.crc32)
        return replace(value, record=place)

    return move(tree)
