"""A checkpoint's contents as a lazy mapping, from its source or from a bundle; tensors are read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preheat.blob import Blob
from preheat.bundle.manifest import MANIFEST, WEIGHTS, Manifest, MergedFacts
from preheat.bundle.origins import Origins, merged_facts
from preheat.bundle.shards import open_shards
from preheat.checks import Checks
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, CheckpointError, NotABundleError
from preheat.index import Index, Tensor

if TYPE_CHECKING:
    from preheat.bundle.training import TrainingState


class LazyTensors(Mapping[str, Any]):
    """Tensors by name. Every access reads the bytes anew into a torch tensor on the CPU: keep what you need."""

    def __init__(self, blob: Blob, tensors: Mapping[str, Tensor], checks: Callable[[], Checks]) -> None:
        self.blob = blob
        self.tensors = tensors
        self._checks = checks

    def __getitem__(self, name: str) -> Any:
        return read(self.blob, self.tensors[name], self._checks())

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors  # Mapping's own would read the tensor


class CheckpointData(Mapping[str, Any]):
    """Shaped like the checkpoint: `state_dict` holds the weights by name, the other keys everything else.

    `blob` and `index` are the bytes and what they declare; `manifest` and `folder` are set for a bundle's. Tensors
    outside the weights are read when their entry is asked for; classes that were not interpreted stay opaque nodes.
    """

    def __init__(
        self,
        blob: Blob,
        index: Index,
        checks: Callable[[], Checks] = Checks,
        manifest: Manifest | None = None,
        folder: Path | None = None,
    ) -> None:
        self.blob = blob
        self.index = index
        self.manifest = manifest
        self.folder = folder
        self._checks = checks
        self._state: Mapping[str, Any] = index.state if isinstance(index.state, Mapping) else {}

    @property
    def merged(self) -> tuple[MergedFacts, ...]:
        """The checkpoints that it was merged from, if it was."""
        return self.manifest.source.merged if self.manifest else merged_facts(self.index)

    @property
    def origins(self) -> Mapping[str, int]:
        """Which of `merged` each of the weights is from."""
        return self.manifest.origins if self.manifest else Origins(self.index)

    @property
    def state_dict(self) -> LazyTensors:
        """The weights by name."""
        return LazyTensors(self.blob, self.index.tensors, self._checks)

    def shown_as(self, index: Index) -> CheckpointData:
        """The same bytes under another index."""
        return CheckpointData(self.blob, index, self._checks, self.manifest, self.folder)

    def training_state(self) -> TrainingState | None:
        """Everything that is not weights, all of it; None for a bundle that was made without."""
        from preheat.bundle.training import state_of_bundle, state_of_index  # only a warm start needs it

        if self.manifest and self.folder:
            return state_of_bundle(self.folder, self.manifest)
        return state_of_index(self.blob, self.index, self._checks)

    def close(self) -> None:
        """Give back the blob's connections and descriptors."""
        self.blob.close()

    def __getitem__(self, key: str) -> Any:
        if key == "state_dict":
            return self.state_dict
        return self._read_tensors(self._state[key])

    def __iter__(self) -> Iterator[str]:
        yield "state_dict"
        yield from (key for key in self._state if key != "state_dict")

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        return key == "state_dict" or key in self._state

    def _read_tensors(self, tree: Any) -> Any:
        if isinstance(tree, Tensor):
            return read(self.blob, tree, self._checks())
        if isinstance(tree, Mapping):
            return {key: self._read_tensors(value) for key, value in tree.items()}
        if isinstance(tree, (list, tuple)):
            return [self._read_tensors(value) for value in tree]
        return tree


def read(blob: Blob, tensor: Tensor, checks: Checks) -> Any:
    """One tensor's values as a torch tensor on the CPU; torch is imported here, not before."""
    from preheat.strategies.filling.tensors import read_tensor

    return read_tensor(blob, tensor, checks)


def open_checkpoint(blob: Blob, context: CheckpointContext) -> CheckpointContext:
    """Read the index of `blob` and put both into the context; payload stays where it is."""
    from preheat.formats import read_index
    from preheat.formats.layouts import averaged

    try:
        index = read_index(blob)
        if context.ema:
            index = averaged(index, context.ema)
    except BaseException:
        blob.close()
        raise
    context.checkpoint_path = blob.uri
    context.checkpoint_data = CheckpointData(blob, index, lambda: context.checks or Checks())
    context.checkpoint_format = format_name(index)
    context.update_metadata(source_uri=blob.uri, source_version=blob.version, source_size_bytes=blob.size)
    return context


def open_bundle(folder: str | Path) -> CheckpointData:
    """The contents of a finished bundle; raises NotABundleError when its files are not those of its manifest."""
    from preheat.file_blob import FileBlob
    from preheat.formats import read_index

    folder = Path(folder)
    manifest = read_manifest(folder)
    blob: Blob = open_shards(folder) if manifest.shard_checksums else FileBlob(folder / WEIGHTS)
    try:
        index = read_index(blob)
        if manifest.shard_checksums:  # compared where they were put together; a bundle is verified before it is given
            index = replace(index, tensors={name: _unchecked(tensor) for name, tensor in index.tensors.items()})
        else:
            _compare(index, manifest, folder)
        return CheckpointData(blob, _as_the_source_was(index, manifest), manifest=manifest, folder=folder)
    except CheckpointError as error:
        blob.close()
        if isinstance(error, NotABundleError):
            raise
        raise NotABundleError(f"{folder} is not a complete bundle: {error}") from error


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle whose files have the sizes it gives; raises NotABundleError otherwise."""
    try:
        manifest = Manifest.from_json((folder / MANIFEST).read_bytes())
        for name, size in manifest.files.items():
            if (found := (folder / name).stat().st_size) != size:
                raise NotABundleError(f"{name} has {found} bytes instead of {size}")
    except (OSError, NotABundleError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise NotABundleError(
            f"{folder} is not a complete bundle: {reason}", remedy="Run the loader again, or remove the folder"
        ) from error
    return manifest


def indexed(context: CheckpointContext, stage: str) -> CheckpointData:
    """The checkpoint that a source opened; raises CheckpointConfigError when something else is in the context."""
    context.validate_for_stage(stage, ["checkpoint_data"])
    data = context.checkpoint_data
    if isinstance(data, CheckpointData):
        return data
    raise CheckpointConfigError(
        f"{stage} works on a checkpoint that a source opened, not on {type(data).__name__}",
        remedy=f"Put {stage} right after the source",
    )


def format_name(index: Index) -> str:
    """`lightning`, `pytorch`, `state_dict` or `safetensors`: the names of Anemoi's guide."""
    if index.format == "safetensors":
        return "safetensors"
    return {"lightning": "lightning", "raw": "state_dict"}.get(index.layout, "pytorch")


def _compare(index: Index, manifest: Manifest, folder: Path) -> None:
    declared = {name: (facts.dtype, facts.shape) for name, facts in manifest.tensors.items()}
    found = {name: (tensor.dtype, tensor.shape) for name, tensor in index.tensors.items()}
    differing = sorted(name for name in declared.keys() | found.keys() if declared.get(name) != found.get(name))
    if differing:
        raise NotABundleError(f"{folder} is not a complete bundle: {differing[0]!r} differs from its manifest")


def _unchecked(tensor: Tensor) -> Tensor:
    parts = tuple(replace(part, tensor=_unchecked(part.tensor)) for part in tensor.parts)
    return replace(tensor, record=replace(tensor.record, crc32=None), parts=parts)


def _as_the_source_was(index: Index, manifest: Manifest) -> Index:
    tied = {alias: index.tensors[name] for alias, name in manifest.aliases.items()}
    source, tensors = manifest.source, {**index.tensors, **tied}
    return replace(index, layout=source.layout, tensors=tensors, state=manifest.state, average=source.average)
