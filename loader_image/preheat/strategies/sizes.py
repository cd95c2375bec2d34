"""How large each tensor of a report is, so that a table or a page can be drawn from the report alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from preheat.strategies.filling.shards import is_plain, is_spread
from preheat.strategies.filling.tensors import DTYPES, dtype_name
from preheat.strategies.flattened import is_flattened
from preheat.strategies.matching import Entry

#: `dtype`, `shape`, `elements` and `bytes`; `frozen` for a parameter that gets no gradient.
Size = Mapping[str, Any]


def sizes_of(model: Any) -> dict[str, Size]:
    """The model's tensors by the names of its `state_dict`; nothing for what is no torch.nn.Module.

    Nothing, too, for a model whose `state_dict` other processes would have to take part in.
    """
    if not isinstance(model, torch.nn.Module) or is_flattened(model):
        return {}
    return sizes_of_tensors(model.state_dict(keep_vars=True))


def sizes_of_tensors(tensors: Mapping[str, Any]) -> dict[str, Size]:
    """Those of a model's tensors, by their names."""
    sizes = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor):
            size = _size(dtype_name(tensor.dtype), tuple(tensor.shape), tensor.element_size())
            if parts := _parts(tensor):
                stored = max(parts, key=lambda part: part.nbytes)
                size = {**size, "dtype": dtype_name(stored.dtype), "bytes": held_bytes(tensor)}
            frozen = isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad
            sizes[name] = {**size, "frozen": True} if frozen else size
    return sizes


def held_bytes(tensor: torch.Tensor) -> int:
    """Bytes of memory; of a quantized tensor those of its values, scales and so on."""
    return sum(map(held_bytes, parts)) if (parts := _parts(tensor)) else tensor.nbytes


def _parts(tensor: Any) -> list[torch.Tensor]:
    """What a quantized tensor is made of; nothing for any other."""
    if is_plain(tensor) or is_spread(tensor) or not is_traceable_wrapper_subclass(tensor):
        return []
    return [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]


def sizes_in(entries: Mapping[str, Entry], names: Iterable[str]) -> dict[str, Size]:
    """Those of a checkpoint's entries."""
    found = {name: entries[name] for name in names}
    return {
        name: _size(entry.dtype, entry.shape, DTYPES[entry.dtype].itemsize if entry.dtype in DTYPES else 0)
        for name, entry in found.items()
    }


def _size(dtype: str, shape: tuple[int, ...], itemsize: int) -> Size:
    elements = prod(shape)
    return {"dtype": dtype, "shape": list(shape), "elements": elements, "bytes": elements * itemsize}
