"""Files of torch.save that are parts of a checkpoint: what they hold, with tensors where they are in the whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from preheat.errors import about
from preheat.formats import torch_zip
from preheat.formats.inert import check_tree
from preheat.formats.metadata import MetadataReader
from preheat.formats.pickle_machine import Pickle
from preheat.index import Record, Tensor
from preheat.joined_blob import Member


def read_file(file: Member) -> Pickle:
    """What is in it; raises a CheckpointLoadError or CheckpointValidationError that names it."""
    with about(file.name):
        pickle = torch_zip.read_tree(MetadataReader(file.blob))
        check_tree(pickle.value)
        return replace(pickle, value=moved(pickle.value, file.start, file.name))


def moved(tree: Any, start: int, name: str) -> Any:
    """A tree without cycles, its tensors moved by `start` bytes; raises where one points outside its storage."""
    if isinstance(tree, Tensor):
        tree.check_inside(name)
        record = tree.record
        place = Record(f"{name}: {record.name}", start + record.start, start + record.stop, record.crc32)
        return replace(tree, record=place)
    if isinstance(tree, dict):
        return {key: moved(value, start, name) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(moved(value, start, name) for value in tree)
    return tree
