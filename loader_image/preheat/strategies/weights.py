"""The weights of a checkpoint, whether they are ranges of a blob or tensors that a stage of the user's own read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from preheat.bundle.data import CheckpointData
from preheat.checks import Checks, Findings
from preheat.errors import CheckpointLoadError
from preheat.strategies.checking import check_before
from preheat.strategies.filling import Move, fill
from preheat.strategies.matching import Entry
from preheat.strategies.targets import entries_of


class Weights(Protocol):
    """Named tensors that can be checked and moved into those of a model."""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What matching needs to know of each tensor."""
        ...

    def check(self, names: tuple[str, ...], checks: Checks, findings: Findings) -> None:
        """Verify what is to be moved, before anything is."""
        ...

    def fill(self, targets: Mapping[str, torch.Tensor]) -> int:
        """Move the tensors named by `targets` into them and return their bytes."""
        ...


class IndexedWeights:
    """Ranges of a blob."""

    def __init__(self, data: CheckpointData) -> None:
        self._blob, self._tensors = data.blob, data.index.tensors
        self.entries = {name: Entry(tensor.final_dtype, tensor.shape) for name, tensor in self._tensors.items()}

    def check(self, names: tuple[str, ...], checks: Checks, findings: Findings) -> None:
        """Compare digests and CRCs with the declared ones."""
        check_before(
            self._blob, (stored.record for name in names for stored in self._tensors[name].stored()), checks, findings
        )

    def fill(self, targets: Mapping[str, torch.Tensor]) -> int:
        """Read each range into its target."""
        return fill(self._blob, [Move(self._tensors[name], target) for name, target in targets.items()])


class LoadedWeights:
    """Tensors in memory; they are read, never changed."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors
        self.entries = entries_of(tensors)

    def check(self, names: tuple[str, ...], checks: Checks, findings: Findings) -> None:
        """Nothing: there are no bytes whose digest could be taken."""

    def fill(self, targets: Mapping[str, torch.Tensor]) -> int:
        """Copy each tensor into its target."""
        with torch.no_grad():
            for name, target in targets.items():
                target.copy_(self._tensors[name])
        return sum(self._tensors[name].nbytes for name in targets)


def open_weights(data: Mapping[str, Any]) -> Weights:
    """The weights in a context's `checkpoint_data`: the first of state_dict, model_state_dict, model, or all of it."""
    if isinstance(data, CheckpointData):
        return IndexedWeights(data)
    keys = [key for key in ("state_dict", "model_state_dict", "model") if isinstance(data.get(key), Mapping)]
    found = data[keys[0]] if keys else data
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointLoadError(
            f"checkpoint_data holds no tensors; its keys are {', '.join(map(str, data)) or 'none'}"
        )
    return LoadedWeights(tensors)
