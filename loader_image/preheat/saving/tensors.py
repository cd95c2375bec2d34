"""The tensors of a training as they go to a file: of a kind that a file can hold, whole, on the host."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from preheat.errors import UnsupportedFormatError
from preheat.index import ITEMSIZE
from preheat.strategies.filling.shards import is_plain, is_spread, local
from preheat.strategies.filling.tensors import DTYPES, dtype_name
from preheat.strategies.targets import is_dense

_KNOWN = frozenset(DTYPES.values())


def check_savable(name: str, tensor: torch.Tensor) -> None:
    """Raise UnsupportedFormatError for a tensor that safetensors cannot hold as it is."""
    if is_plain(tensor) and tensor.layout == torch.strided and tensor.dtype in _KNOWN and not tensor.is_meta:
        return  # as nearly all are
    held = local(tensor)
    if tensor.is_meta:
        why, remedy = "is on the meta device and has no values", "Fill the model before it is saved"
    elif is_traceable_wrapper_subclass(held):
        why, remedy = f"is a {type(held).__name__}", "Save its plain parts, or the model before they are made"
    elif not is_dense(held):
        why, remedy = f"is {held.layout}, not dense", "Make it dense before it is saved"
    elif dtype_name(tensor.dtype) not in ITEMSIZE:
        why, remedy = f"has dtype {tensor.dtype}", f"Cast it to one of {', '.join(ITEMSIZE)}"
    else:
        return
    raise UnsupportedFormatError(f"tensor {name!r} {why}, which safetensors cannot hold", remedy=remedy)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that processes hold together; all of them have to ask, in the same order."""
    if not is_spread(tensor):
        return tensor
    spread: Any = tensor
    if spread.device.type == "cpu" != spread.device_mesh.device_type:  # offloaded: its processes talk by their devices
        spread = spread.to(spread.device_mesh.device_type)
    gathered: torch.Tensor = spread.full_tensor()
    return gathered


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """The values in one piece of the host's memory: the tensor's own, where they lie there already."""
    tensor = tensor.detach()
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    return tensor.to("cpu").contiguous()
