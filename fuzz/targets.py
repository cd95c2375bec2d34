"""Every fuzz target: what it is called, what it runs, where it begins, and how its inputs are changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import containers
import documents
import pickles
import seeds
import shelves

#: Input, limit in bytes, libFuzzer's own mutation, and what to choose by.
Mutate = Callable[[bytes, int, Callable[[bytes, int], bytes], Random], bytes]


@dataclass(frozen=True)
class Target:
    """`check` takes an input and raises anything but a CheckpointError's refusal where a parser is at fault."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    max_bytes: int
    mutate: Mutate | None = None  # None: libFuzzer's own


TARGETS = {
    "safetensors": Target(containers.safetensors_file, seeds.safetensors_files, 8192),
    "zip-directory": Target(containers.zip_directory, seeds.zip_files, 8192),
    "inert-pickle": Target(pickles.inert_pickle, seeds.pickles, 8192),
    "layouts": Target(pickles.layouts, seeds.torch_pickles, 8192),
    "json-state": Target(pickles.json_state, seeds.pickles, 8192),
    "torch-zip": Target(containers.checkpoint, seeds.torch_files, 16384, containers.mutate_zip),
    "torch-legacy": Target(containers.checkpoint, seeds.torch_files_before_1_6, 32768),
    "folder": Target(shelves.folder, shelves.folders, 32768, shelves.mutate_folder),
    "manifest": Target(documents.manifest, seeds.manifests, 8192, documents.mutate_json),
    "training-document": Target(documents.training_document, seeds.training_documents, 8192, documents.mutate_json),
    "s3-listing": Target(documents.s3_listing, seeds.s3_listings, 8192),
    "pointer": Target(documents.pointer, seeds.pointers, 8192, documents.mutate_json),
    "http-answer": Target(documents.http_answer, seeds.http_answers, 8192),
}
