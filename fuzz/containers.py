"""Targets that take a whole file, or the part that describes the rest; the formats' own libraries are the oracles.

Where Preheat accepts a file, the library that defines the format must find the same tensors in it, or refuse it.
"""

from __future__ import annotations

import io
import json
import math
import random
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import safetensors
import torch
from claims import FindingError, accepted, claim
from formats.samples import BytesBlob, Member, same, value_of, zip_of

from preheat import formats
from preheat.formats import safetensors as own_safetensors
from preheat.formats.averages import averages_in, of_model, trees_in
from preheat.formats.metadata import MetadataReader
from preheat.formats.pytorch.tensors import DTYPES
from preheat.formats.pytorch.zip_directory import read_directory
from preheat.index import Index
from preheat.plan import make_plan
from preheat.spec import PipelineSpec

Mutate = Callable[[bytes, int], bytes]

MAX_PAYLOAD = 1 << 20
MAX_COMPARED = 4096  # elements


def safetensors_file(data: bytes) -> None:
    """A file, or after an odd first byte a header's text, which is given its length and a payload."""
    content = _with_payload(data[1:]) if data[:1] and data[0] % 2 else data[1:]
    index = accepted(lambda: own_safetensors.read_index(MetadataReader(BytesBlob(content))))
    if index is None:
        return
    theirs = dict(safetensors.deserialize(content))  # accepts, or that is the finding
    ours = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in index.tensors.items()}
    claim(ours == {name: (found["dtype"], found["shape"]) for name, found in theirs.items()}, "another header")
    for name, tensor in index.tensors.items():
        claim(content[tensor.start : tensor.start + tensor.size] == theirs[name]["data"], "other bytes")
    check_plan(index)


def _with_payload(text: bytes) -> bytes:
    try:
        entries = json.loads(text)
        stop = max(entry["data_offsets"][1] for entry in entries.values() if "data_offsets" in entry)
        payload = bytes(stop) if stop <= MAX_PAYLOAD else b""
    except Exception:  # the header is nonsense, which is what the reader is there to say
        payload = b""
    return len(text).to_bytes(8, "little") + text + payload


def zip_directory(data: bytes) -> None:
    """The directory of a zip file, against Python's own reader."""
    members = accepted(lambda: read_directory(MetadataReader(BytesBlob(data))))
    if members is None:
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            theirs = [(info.filename, info.header_offset, info.compress_size, info.CRC) for info in archive.infolist()]
    except (zipfile.BadZipFile, NotImplementedError):  # of versions and methods that say nothing about stored bytes
        return
    ours = [(member.name, member.header, member.size, member.crc32 or 0) for member in members.values()]
    claim(ours == theirs, f"Python's zipfile reads {theirs}, Preheat {ours}")


def checkpoint(data: bytes) -> None:
    """A checkpoint of any format, as `preheat.formats.read_index` is given it, against torch.load."""
    index = accepted(lambda: formats.read_index(BytesBlob(data)))
    if index is None:
        return
    check_plan(index)
    if index.format in ("torch-zip", "torch-legacy"):
        _compare_with_torch(index, data)


def check_plan(index: Index) -> None:
    """What can be planned has a header that the reader of headers accepts."""
    plan = accepted(lambda: make_plan(index, PipelineSpec(())))
    if plan is None or plan.output_bytes > MAX_PAYLOAD:
        return
    output = bytes(plan.header).ljust(plan.output_bytes, b"\0")
    again = own_safetensors.read_index(MetadataReader(BytesBlob(output)))
    claim(again.tensors.keys() | plan.aliases.keys() == index.tensors.keys(), "the plan loses or invents tensors")


def _compare_with_torch(index: Index, data: bytes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            root = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # torch refuses in many ways what Preheat reads, classes it does not know above all
        return
    theirs = _weights_of(root, index.layout)
    claim(theirs.keys() == index.tensors.keys(), f"torch finds {list(theirs)}, Preheat {list(index.tensors)}")
    for name, tensor in index.tensors.items():
        found = theirs[name]
        claim(DTYPES[str(found.dtype).removeprefix("torch.")] == tensor.dtype, "another dtype")
        claim(tuple(found.shape) == tensor.shape, "another shape")
        if math.prod(tensor.shape) <= MAX_COMPARED:
            claim(same(value_of(data, tensor), found), "other values")


def _weights_of(root: Any, layout: str) -> dict[str, torch.Tensor]:
    key = "state_dict" if layout == "lightning" else layout
    if averages_in([layout]):
        return of_model(_tensors(trees_in(root, _tensors)[layout]), ())
    return _tensors(root if layout == "raw" else root[key])


def _tensors(entries: Any) -> dict[str, torch.Tensor]:
    items = entries.items() if isinstance(entries, dict) else ()
    return {name: value for name, value in items if isinstance(value, torch.Tensor)}


def mutate_zip(data: bytes, max_size: int, mutate: Mutate, choice: random.Random) -> bytes:
    """Change one member and write its CRC anew, which a mutation of the file alone would never get right."""
    try:
        members = [Member(name, content) for name, content in _contents(data).items()]
    except Exception:  # no zip file any more: the file as a whole is what can be changed
        return bytes(mutate(data, max_size))
    overhead = len(data) - sum(len(member.content) for member in members)
    chosen = choice.choice(members) if choice.random() < 0.3 else members[0]  # the pickle
    chosen.content = bytes(mutate(chosen.content, max(1, max_size - overhead)))
    return zip_of(members)[:max_size]


def _contents(data: bytes) -> Mapping[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        found = {info.filename: archive.read(info) for info in archive.infolist() if info.file_size <= MAX_PAYLOAD}
    if not found:
        raise FindingError("no members")
    return found
