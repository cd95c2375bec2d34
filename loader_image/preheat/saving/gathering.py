"""Brings a checkpoint's tensors to the host, in the one order in which all processes of the training ask for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import torch

from preheat.formats.safetensors import Declared, offsets
from preheat.saving.tensors import on_host, whole
from preheat.strategies.filling.tensors import dtype_name


def declared(tensors: Mapping[str, torch.Tensor]) -> Declared:
    """Dtype and whole shape of each."""
    return {name: (dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}


class Gathering:
    """The tensors of several files, one file after the other, each file's in the order in which it has them."""

    def __init__(self, files: Sequence[Mapping[str, torch.Tensor]]) -> None:
        self._left = deque(tensors[name] for tensors in files for name, _, _ in offsets(declared(tensors)))

    def bring(self, _name: str) -> torch.Tensor:
        """The next one, whole and on the host."""
        with torch.no_grad():
            return on_host(whole(self._left.popleft()))

    def all(self) -> Iterator[torch.Tensor]:
        """Those that are left, whole, each wherever it is."""
        while self._left:
            yield whole(self._left.popleft())

    def finish(self) -> None:
        """Take part in gathering what nobody brings here any more: the other processes wait for it."""
        with torch.no_grad():
            while self._left:
                whole(self._left.popleft())
