"""Checkpoints of several files: which file of a folder tells of the others, and how they become one index.

No listing is needed: every format has one file that names the rest, so a folder is read the same way from a disk, a
bucket or a web server. Names that lead out of the folder are refused.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from preheat.blob import Blob, Folder
from preheat.bundle.manifest import MANIFEST
from preheat.errors import AccessDeniedError, CheckpointLoadError, CheckpointNotFoundError, CheckpointSourceError
from preheat.formats import adapters, noether, saved, shards, trainer
from preheat.formats.distributed import index as distributed
from preheat.formats.files import read_file
from preheat.formats.zero import index as zero
from preheat.index import Index
from preheat.joined_blob import JoinedBlob

THREADS = 16  # that open files of a remote folder; each waits for one answer
MAX_FILES = 100_000


@dataclass(frozen=True)
class FolderFormat:
    """A kind of checkpoint in several files, known by the name of the one that tells of the others.

    `members` names these, given the folder and that file; `read_index` makes the index of them all. A file of that name
    that names none, or has more bytes than `longest`, is a checkpoint by itself.
    """

    name: str
    entry: re.Pattern[str]
    members: Callable[[Folder, Blob], Sequence[str]]
    read_index: Callable[[JoinedBlob], Index]
    longest: int | None = None


FOLDERS: tuple[FolderFormat, ...] = (
    FolderFormat("saved by Preheat", re.compile(r"(^|/)manifest\.json$"), saved.members, saved.read_index),
    FolderFormat(  # a variant, such as fp16, is named before the last part
        "files in shards",
        re.compile(r"\.(safetensors|bin)\.index(\.[\w-]+)?\.json$"),
        shards.members,
        shards.read_index,
    ),
    FolderFormat(
        "peft adapter", re.compile(r"(^|/)adapter_model\.(safetensors|bin)$"), adapters.members, adapters.read_index
    ),
    FolderFormat(
        "torch.distributed.checkpoint", re.compile(r"(^|/)\.metadata$"), distributed.members, distributed.read_index
    ),
    FolderFormat("Noether", re.compile(r"_cp=[^/]*_model\.th$"), lambda folder, blob: (), noether.read_index),
    FolderFormat("DeepSpeed", re.compile(r"(^|/)latest$"), zero.members, zero.read_index, longest=zero.MAX_TAG),
)

#: What is looked for in a folder, the first that is there is taken.
ENTRIES: tuple[str, ...] = (
    MANIFEST,
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_lora_weights.safetensors",
    ".metadata",
    "latest",
)

#: Those of them that trainers write.
_OF_TRAINERS = frozenset(ENTRIES[1:7])

_LEADS_OUT = re.compile(r"^/|\\|(^|/)\.\.?(/|$)|[\x00-\x1f]")


def open_in(folder: Folder, name: str = "") -> Blob:
    """The checkpoint called `name` in a folder, or without a name the one that the folder is.

    Files that belong together are one blob; what a trainer saved beside the weights belongs to them where no name says
    that these alone are wanted. Raises a CheckpointSourceError or CheckpointLoadError.
    """
    found, blob = (name, folder.open(name)) if name else _look_in(folder)
    kind = _kind(found)
    single = kind is None or (kind.longest is not None and blob.size > kind.longest)
    try:
        names = [] if single or kind is None else kind.members(folder, blob)
        beside = [] if name or found not in _OF_TRAINERS else trainer.members(folder)
        files = list(zip([*names, *beside], _open_all(folder, [*names, *beside], remote=blob.remote), strict=True))
    except BaseException:
        blob.close()
        raise
    if not files:
        return blob
    return JoinedBlob(folder.uri + name, [(found, blob), *files[: len(names)]], files[len(names) :])


def open_together(folder: Folder, name: str, files: Sequence[str]) -> Blob:
    """The checkpoint called `name` that consists of these files, the first of which says what it is."""
    first = folder.open(files[0])
    try:
        rest = _open_all(folder, files[1:], remote=first.remote)
    except BaseException:
        first.close()
        raise
    return JoinedBlob(folder.uri + name, list(zip(files, [first, *rest], strict=True)))


def read_folder(blob: JoinedBlob) -> Index:
    """The index of files that `open_in` has joined."""
    if blob.beside:
        files = [(member.name, member.blob) for member in blob.members[: -len(blob.beside)]]
        index = read_file(files[0][1]) if len(files) == 1 else read_folder(JoinedBlob(blob.uri, files))
        return trainer.with_state(index, blob.beside)
    kind = _kind(blob.members[0].name)
    assert kind is not None  # noqa: S101 - joined because of it
    return kind.read_index(blob)


def _kind(name: str) -> FolderFormat | None:
    return next((kind for kind in FOLDERS if kind.entry.search(name)), None)


def _look_in(folder: Folder) -> tuple[str, Blob]:
    present = folder.names()
    denied: AccessDeniedError | None = None
    for name in ENTRIES:
        if present is not None and name not in present:
            continue
        try:
            blob = folder.open(name)
        except CheckpointNotFoundError:
            continue
        except AccessDeniedError as error:  # how S3 answers for a missing key to who may not list the bucket
            denied = denied or error
            continue
        if name != MANIFEST or saved.is_manifest(blob):
            return name, blob
        blob.close()
    raise denied or _nothing(folder.uri, present)


def _nothing(uri: str, present: Iterable[str] | None) -> CheckpointSourceError:
    there = "" if present is None else f"; in it are {', '.join(map(repr, sorted(present)[:8])) or 'no files'}"
    return CheckpointNotFoundError(
        f"folder {uri} has none of the files that a checkpoint begins with ({', '.join(ENTRIES)}){there}",
        remedy="Name the checkpoint's file",
    )


def _open_all(folder: Folder, names: Sequence[str], *, remote: bool) -> list[Blob]:
    _check_names(names)
    _allow_open_files(len(names))
    opened: list[Blob] = []

    def open_one(name: str) -> Blob:
        blob = folder.open(name)
        opened.append(blob)
        return blob

    try:
        with ThreadPoolExecutor(THREADS if remote else 1, thread_name_prefix="preheat") as pool:
            return list(pool.map(open_one, names))
    except BaseException:
        for blob in opened:
            blob.close()
        raise


def _check_names(names: Sequence[str]) -> None:
    if len(names) > MAX_FILES:
        raise CheckpointLoadError(f"the checkpoint has {len(names)} files; {MAX_FILES} are allowed")
    for name in names:
        if not name or _LEADS_OUT.search(name):
            raise CheckpointLoadError(
                f"the checkpoint refers to a file {name!r:.80}, which is not in its folder",
                remedy="Save the checkpoint again; a file that leads out of its folder is never opened",
            )


def _allow_open_files(count: int) -> None:
    """Local shards stay open, pinned; the usual limit of 1,024 is for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _open_files() + count + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == -1 else min(wanted, hard), hard))


def _open_files() -> int:
    """How many files this process has open; a training may have many."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:  # a system without that folder
        return 0
