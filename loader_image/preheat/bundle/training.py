"""The training state of a checkpoint or of a bundle: optimizers, schedulers, progress, whatever is not weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from preheat.blob import Blob
from preheat.bundle.manifest import STATE, STATE_TENSORS, Manifest
from preheat.bundle.shards import open_shards
from preheat.checks import Checks
from preheat.errors import CheckpointError, CheckpointLoadError, NotABundleError
from preheat.formats.stackwise import without_artefacts
from preheat.formats.training_state import spell_state, unspell_state
from preheat.index import Index, Tensor


@dataclass(frozen=True)
class TrainingState:
    """A tree of plain values, `Opaque` objects and tensors; `read` turns what it holds into torch's tensors."""

    tree: Any
    blob: Blob | None = None  # that the tensors are in; None when there are none
    checks: Callable[[], Checks] = field(default=Checks)
    owned: bool = False  # whether `close` closes the blob

    def read(self, tree: Any) -> Any:
        """A part of the tree with its tensors read, each into memory of its own on the CPU."""
        if self.blob is None:
            return tree
        if isinstance(tree, Tensor):
            from preheat.strategies.filling.tensors import read_tensor  # and with it torch

            return read_tensor(self.blob, tree, self.checks())
        if isinstance(tree, Mapping):
            return type(tree)({self.read(key): self.read(value) for key, value in tree.items()})  # type: ignore[call-arg]
        if isinstance(tree, (list, tuple)):
            return type(tree)(map(self.read, tree))
        return tree

    def close(self) -> None:
        """Give back the descriptor of a bundle's file."""
        if self.owned and self.blob:
            self.blob.close()


def state_of_index(blob: Blob, index: Index, checks: Callable[[], Checks]) -> TrainingState:
    """That of a checkpoint where it is."""
    spelled = spell_state(without_artefacts(index))
    try:
        tree = unspell_state(spelled.document, spelled.tensors.__getitem__)
    except (ValueError, TypeError) as error:
        raise CheckpointLoadError(f"the training state of {blob.uri} makes no sense: {error}") from error
    return TrainingState(tree, blob, checks)


def state_of_bundle(folder: Path, manifest: Manifest) -> TrainingState | None:
    """That of a bundle; None when its pipeline is no warm start. Raises NotABundleError when the files do not fit."""
    from preheat.file_blob import FileBlob
    from preheat.formats import read_index

    if STATE not in manifest.files:
        return None
    if manifest.shard_checksums:
        return _state_of_shards(folder)
    blob: Blob | None = None
    try:
        tensors: Mapping[str, Tensor] = {}
        if STATE_TENSORS in manifest.files:
            blob = FileBlob(folder / STATE_TENSORS)
            tensors = read_index(blob).tensors
        document = json.loads((folder / STATE).read_bytes())
        tree = unspell_state(document, tensors.__getitem__)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, CheckpointError) as error:
        if blob:
            blob.close()
        raise NotABundleError(
            f"{folder} is not a complete bundle: {STATE} cannot be read ({type(error).__name__}: {error})",
            remedy="Run the loader again, or remove the folder",
        ) from error
    return TrainingState(tree, blob, owned=True)


def _state_of_shards(folder: Path) -> TrainingState:
    from preheat.formats import read_index

    blob = open_shards(folder)
    try:
        return replace(state_of_index(blob, read_index(blob), lambda: Checks(crc32=False)), owned=True)
    except CheckpointError as error:
        blob.close()
        raise NotABundleError(f"{folder} is not a complete bundle: {error}") from error
