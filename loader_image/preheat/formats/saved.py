"""Folders with a manifest of Preheat's: checkpoints that it saved, and bundles that its loader made.

The manifest was written last and names the files with their sizes and checksums, so a folder that is not complete is
refused, and what is read of a complete one can be verified as records of a zip file are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from preheat.blob import Blob, Folder
from preheat.bundle.manifest import MANIFEST, STATE, STATE_TENSORS, WEIGHTS, Manifest
from preheat.errors import CheckpointLoadError, CheckpointValidationError, NotABundleError, TruncatedError
from preheat.formats import adapters, saved_shards
from preheat.formats.companions import read_json
from preheat.formats.files import read_file
from preheat.formats.saved_shards import MODEL, kind_of, put_together
from preheat.formats.shards import moved
from preheat.formats.training_state import unspell_state
from preheat.index import Index, Tensor
from preheat.joined_blob import JoinedBlob, Member

#: The layout of an index of what Preheat saved.
LAYOUT = "preheat"
ADAPTERS = "adapter_model.safetensors"

MAX_MANIFEST = MAX_STATE = 256 << 20  # bytes
_BEGINS = b'{\n "layout": '


def is_manifest(blob: Blob) -> bool:
    """Whether a file called `manifest.json` is one of ours; other programs have files of that name."""
    return blob.read(0, min(len(_BEGINS), blob.size)) == _BEGINS


def members(folder: Folder, entry: Blob) -> Sequence[str]:
    """The files that the manifest names and that are read: weights, state and its tensors, or an adapter."""
    manifest = _manifest(entry)
    known = (WEIGHTS, STATE, STATE_TENSORS, ADAPTERS, adapters.CONFIG)
    if not any(name in (WEIGHTS, ADAPTERS) or kind_of(name) == MODEL for name in manifest.files):
        raise CheckpointLoadError(f"{MANIFEST} names no weights, but {', '.join(manifest.files) or 'no files'}"[:500])
    return [name for name in manifest.files if name in known or kind_of(name)]


def read_index(blob: JoinedBlob) -> Index:
    """The index of all files; raises TruncatedError for one that has not the size that the manifest gives."""
    manifest = _manifest(blob.members[0].blob)
    files = {member.name: member for member in blob.members[1:]}
    for name, member in files.items():
        if member.blob.size != manifest.files[name]:
            raise TruncatedError(
                f"{name} has {member.blob.size} bytes; its manifest says {manifest.files[name]}",
                remedy="Copy or save the checkpoint again",
            )
    index = _weights(files, manifest)
    tied = {alias: index.tensors[name] for alias, name in manifest.aliases.items() if name in index.tensors}
    return replace(
        index,
        layout=LAYOUT if manifest.saved else manifest.source.layout,
        tensors={**index.tensors, **tied},
        state=_state(files, manifest),
        average=manifest.source.average,
        metadata_bytes=index.metadata_bytes + blob.members[0].blob.size,
    )


def _weights(files: Mapping[str, Member], manifest: Manifest) -> Index:
    if whole := files.get(WEIGHTS) or files.get(ADAPTERS):
        return _verified(whole, {name: facts.crc32 for name, facts in manifest.tensors.items()})
    tensors, read = _shards(MODEL, files, manifest)
    declared = {name: (facts.dtype, facts.shape) for name, facts in manifest.tensors.items()}
    found = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    if differing := sorted(name for name in declared.keys() | found.keys() if declared.get(name) != found.get(name)):
        raise CheckpointValidationError(
            f"the shards and their manifest differ in {differing[0]!r}", remedy="Copy or save the checkpoint again"
        )
    return Index("safetensors", LAYOUT, tensors, metadata_bytes=read)


def _shards(kind: str, files: Mapping[str, Member], manifest: Manifest) -> tuple[dict[str, Tensor], int]:
    """The whole tensors of all shards of a kind, and how many bytes were read of their headers."""
    indexes = {
        name: _verified(member, manifest.shard_checksums.get(name, {}))
        for name, member in files.items()
        if kind_of(name) == kind
    }
    return put_together(indexes.items()), sum(index.metadata_bytes for index in indexes.values())


def _verified(member: Member, checksums: Mapping[str, int | None]) -> Index:
    """The index of a file whose tensors have checksums; raises when it declares others than the manifest.

    The state's have none in a bundle that the loader made.
    """
    index = moved(read_file(member.blob), member)
    if not checksums:
        return index
    if differing := sorted(index.tensors.keys() ^ checksums.keys()):
        raise CheckpointValidationError(
            f"{member.name} and its manifest differ in {differing[0]!r}", remedy="Copy or save the checkpoint again"
        )

    def known(name: str, tensor: Tensor) -> Tensor:
        return replace(tensor, record=replace(tensor.record, crc32=checksums[name]))

    return replace(index, tensors={name: known(name, tensor) for name, tensor in index.tensors.items()})


def _state(files: Mapping[str, Member], manifest: Manifest) -> Any:
    if adapters.CONFIG in files:
        return {"adapter_config": read_json(files[adapters.CONFIG].blob, adapters.MAX_CONFIG)}
    if STATE not in files:
        return manifest.state
    tensors: Mapping[str, Tensor] = {}
    if STATE_TENSORS in files:
        tensors = _verified(files[STATE_TENSORS], manifest.state_checksums).tensors
    else:
        tensors, _ = _shards(saved_shards.STATE, files, manifest)
    try:
        return unspell_state(read_json(files[STATE].blob, MAX_STATE), tensors.__getitem__)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointLoadError(f"{STATE} makes no sense: {type(error).__name__}: {error}") from error


def _manifest(blob: Blob) -> Manifest:
    if blob.size > MAX_MANIFEST:
        raise CheckpointLoadError(f"{MANIFEST} has {blob.size} bytes; {MAX_MANIFEST} are allowed")
    try:
        return Manifest.from_json(blob.read(0, blob.size))
    except NotABundleError as error:
        raise CheckpointLoadError(f"{MANIFEST}: {error.args[0]}", remedy=error.remedy) from error
