"""Host memory to which tensors are copied before they are written beside the training; kept for the next save."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

Bring = Callable[[str], torch.Tensor]


class Staging:
    """Copies of tensors, pinned where these come from a device. Not safe in threads."""

    def __init__(self) -> None:
        self._kept: list[torch.Tensor] = []

    def copy(self, tensors: Iterable[torch.Tensor]) -> Bring:
        """Copy all, in order; what is returned brings the copies in the same order."""
        kept, self._kept = self._kept, []
        devices = set()
        with torch.no_grad():
            for place, tensor in enumerate(tensors):
                target = _memory(tensor, kept[place] if place < len(kept) else None)
                target.copy_(tensor, non_blocking=True)
                self._kept.append(target)
                if tensor.is_cuda:
                    devices.add(tensor.device)
        for device in devices:
            torch.cuda.synchronize(device)
        copies = iter(self._kept)
        return lambda _: next(copies)


def _memory(tensor: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
    if known is not None and (known.shape, known.dtype) == (tensor.shape, tensor.dtype):
        return known
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
