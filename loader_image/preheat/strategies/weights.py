"""The weights of a checkpoint, whether they are ranges of a blob or tensors that a stage of the user's own read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import torch

from preheat.blob import Blob
from preheat.bundle.data import CheckpointData
from preheat.checks import Checks, Findings
from preheat.errors import CheckpointIncompatibleError, CheckpointLoadError, NothingMatchedError
from preheat.formats.averages import COUNT, choose, completed, of_model, said, trees_among, trees_in
from preheat.formats.layouts import WEIGHT_KEYS, averaged
from preheat.index import Index, Tensor
from preheat.paths import some
from preheat.strategies.filling.checking import check_before
from preheat.strategies.filling.fill import fill
from preheat.strategies.filling.moves import Move, part_of
from preheat.strategies.filling.shards import Target, local
from preheat.strategies.filling.tensors import read_tensor
from preheat.strategies.matching import Entry
from preheat.strategies.targets import entries_of, is_dense, memory_key


class Weights(Protocol):
    """Named tensors that can be checked and moved into those of a model."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report is to say of them."""
        ...

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What matching needs to know of each tensor."""
        ...

    def check(self, names: tuple[str, ...], checks: Checks, findings: Findings) -> None:
        """Verify what is to be moved, before anything is."""
        ...

    def called(self, names: Mapping[str, str]) -> Weights:
        """Those of the tensors that are keys of `names`, under the names that are its values."""
        ...

    def read(self, name: str) -> torch.Tensor:
        """The values of one tensor, on the CPU or where they are; not to be changed."""
        ...

    def fill(self, targets: Mapping[str, Target]) -> int:
        """Move the tensors named by `targets`, or their regions, into them and return the bytes moved."""
        ...


class IndexedWeights:
    """Ranges of a blob."""

    def __init__(self, blob: Blob, tensors: Mapping[str, Tensor], average: str = "") -> None:
        self._blob, self._tensors = blob, tensors
        self.notes = _of_average(average)
        self.entries = {name: Entry(tensor.final_dtype, tensor.shape) for name, tensor in tensors.items()}

    def called(self, names: Mapping[str, str]) -> IndexedWeights:
        """The same ranges."""
        return IndexedWeights(self._blob, {new: self._tensors[name] for name, new in names.items()})

    def check(self, names: tuple[str, ...], checks: Checks, findings: Findings) -> None:
        """Compare digests and CRCs with the declared ones."""
        check_before(
            self._blob, (stored.record for name in names for stored in self._tensors[name].stored()), checks, findings
        )

    def read(self, name: str) -> torch.Tensor:
        """Its range, in memory of its own."""
        return read_tensor(self._blob, self._tensors[name], Checks(crc32=False))

    def fill(self, targets: Mapping[str, Target]) -> int:
        """Read each range into its target."""
        return fill(self._blob, [Move(self._tensors[name], t.tensor, t.region) for name, t in targets.items()])


class LoadedWeights:
    """Tensors in memory; they are read, never changed."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], notes: tuple[str, ...] = ()) -> None:
        self._tensors = tensors
        self.notes = notes
        self.entries = entries_of(tensors)

    def called(self, names: Mapping[str, str]) -> LoadedWeights:
        """The same tensors."""
        return LoadedWeights({new: self._tensors[name] for name, new in names.items()})

    def check(self, names: tuple[str, ...], checks: Checks, findings: Findings) -> None:
        """Nothing: there are no bytes whose digest could be taken."""

    def read(self, name: str) -> torch.Tensor:
        """The tensor itself."""
        return self._tensors[name].detach()

    def fill(self, targets: Mapping[str, Target]) -> int:
        """Copy each tensor into its target."""
        written = {_memory(target.tensor) for target in targets.values()}
        with torch.no_grad():
            values = {name: self._apart(name, target.tensor, written) for name, target in targets.items()}
            for name, target in targets.items():
                target.tensor.copy_(part_of(values[name], target.region))
        return sum(target.tensor.numel() * self._tensors[name].element_size() for name, target in targets.items())

    def _apart(self, name: str, target: torch.Tensor, written: Collection[int]) -> torch.Tensor:
        """The tensor, or a copy of one that lies in the model itself and would change before it is read."""
        tensor = self._tensors[name]
        return tensor.clone() if _memory(tensor) in written and memory_key(tensor) != memory_key(target) else tensor


def open_weights(data: Mapping[str, Any], ema: str | None = None) -> Weights:
    """The weights in a context's `checkpoint_data`: the first of state_dict, model_state_dict, model, or all of it.

    With `ema` the averaged ones; raises NothingMatchedError that lists what else there is when those are not there.
    """
    if isinstance(data, CheckpointData):
        index = _averaged(data, ema) if ema else data.index
        return IndexedWeights(data.blob, index.tensors, index.average)
    keys = [key for key in WEIGHT_KEYS if isinstance(data.get(key), Mapping)]
    found = data[keys[0]] if keys else data
    tensors = _tensors_in(found)
    _check_dense(tensors)
    if ema:
        rest = {key: value for key, value in data.items() if value is not found}
        trees = {**trees_in(rest, _is_weights), **trees_among(tensors)}
        path = choose(trees, ema)
        tensors, alone = completed(of_model(_tensors_in(trees[path]), tensors.keys()), tensors, path)
        return LoadedWeights(tensors, _of_average(said(path, alone)))
    if not tensors:
        raise CheckpointLoadError(
            f"checkpoint_data holds no tensors; its keys are {', '.join(map(str, data)) or 'none'}"
        )
    return LoadedWeights(tensors, _of_foreign(found) if keys else ())


def _averaged(data: CheckpointData, ema: str) -> Index:
    if data.manifest and not data.index.average:
        raise NothingMatchedError(
            f"the bundle of {data.manifest.source.uri} was made of the raw weights",
            remedy="Have the loader make it by a pipeline whose strategy has ema",
        )
    return averaged(data.index, ema)


def _tensors_in(tree: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tree.items() if isinstance(value, torch.Tensor)}


def _is_weights(value: Any) -> bool:
    items = value.items() if isinstance(value, Mapping) else ()
    return any(isinstance(each, torch.Tensor) and each.dim() and name != COUNT for name, each in items)


def _memory(tensor: torch.Tensor) -> int:
    return local(tensor).untyped_storage().data_ptr()


def _check_dense(tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if not is_dense(tensor):
            raise CheckpointIncompatibleError(
                f"tensor {name!r} of the checkpoint is {tensor.layout}, not dense", remedy="Give a dense tensor"
            )


def _of_foreign(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Entries among weights that are none, such as arrays of another library, are not left out without a word."""
    foreign = [f"{n} ({type(each).__name__})" for n, each in found.items() if not isinstance(each, torch.Tensor)]
    return (f"left out, being no tensors: {some(foreign)}",) if foreign else ()


def _of_average(average: str) -> tuple[str, ...]:
    return (f"weights as ema asks: {average}",) if average else ()
