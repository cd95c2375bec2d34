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
from preheat.formats import adapters
from preheat.formats.companions import read_json
from preheat.formats.files import read_file
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
    if WEIGHTS not in manifest.files and ADAPTERS not in manifest.files:
        raise CheckpointLoadError(f"{MANIFEST} names no weights, but {', '.join(manifest.files) or 'no files'}"[:500])
    return [name for name in known if name in manifest.files]


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
    weights = files.get(WEIGHTS) or files[ADAPTERS]
    checksums = {name: facts.crc32 for name, facts in manifest.tensors.items()}
    index = _verified(weights, checksums)
    tied = {alias: index.tensors[name] for alias, name in manifest.aliases.items() if name in index.tensors}
    return replace(
        index,
        layout=LAYOUT if manifest.saved else manifest.source.layout,
        tensors={**index.tensors, **tied},
        state=_state(files, manifest),
        average=manifest.source.average,
        metadata_bytes=index.metadata_bytes + blob.members[0].blob.size,
    )


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
