"""The training state as it is written: a document, and the tensors that it names; the counterpart of what resumes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from preheat.errors import UnsupportedFormatError
from preheat.formats.training_state import spell_state
from preheat.index import ITEMSIZE, Record, Tensor
from preheat.saving.tensors import check_savable
from preheat.strategies.filling.tensors import dtype_name
from preheat.strategies.targets import memory_key


@dataclass(frozen=True)
class State:
    """A document with the tensors that it names, which are the training's own."""

    document: Any
    tensors: Mapping[str, torch.Tensor]


def spelled(tree: Mapping[str, Any], plain: Sequence[str] | None = None) -> State:
    """Take a training state apart; its plain values are copied, its tensors are not.

    Raises UnsupportedFormatError for an object that could not be made again. With `plain` only in these entries: those
    in others are kept by their name alone.
    """
    taking = _Taking()
    parts = spell_state(taking.take(tree, ()))
    for path, kind in parts.opaque.items():
        if plain is None or path.split(".")[0] in plain:
            raise UnsupportedFormatError(
                f"{path} is an object of {kind}, which a checkpoint without pickles cannot hold",
                remedy="Give its state_dict(), or plain values and tensors",
            )
    return State(parts.document, {name: taking.tensors[each.start] for name, each in parts.tensors.items()})


class _Taking:
    """Replaces tensors by the stand-ins that a spelling knows; equal ones for the same memory."""

    def __init__(self) -> None:
        self.tensors: dict[int, torch.Tensor] = {}
        self._starts: dict[object, int] = {}

    def take(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, torch.Tensor):
            return self._stand_in(value, ".".join(path))
        if isinstance(value, Counter):
            return value
        if isinstance(value, Mapping):
            return {key: self.take(each, (*path, str(key))) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            taken = [self.take(each, (*path, str(position))) for position, each in enumerate(value)]
            return tuple(taken) if isinstance(value, tuple) else taken
        if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
            return value.item()
        return value

    def _stand_in(self, tensor: torch.Tensor, path: str) -> Tensor:
        check_savable(path, tensor)
        dtype, shape = dtype_name(tensor.dtype), tuple(tensor.shape)
        start = self._starts.setdefault((dtype, memory_key(tensor)), len(self.tensors))
        self.tensors.setdefault(start, tensor)
        return Tensor(dtype, shape, Record(path, start, start + tensor.numel() * ITEMSIZE[dtype]))
