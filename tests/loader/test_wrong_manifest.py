"""A manifest lies where others write: one whose fields hold something else is none. Found by `make fuzz`."""

from __future__ import annotations

import json

import pytest

from preheat.bundle.manifest import Manifest, Pipeline, SourceFacts, TensorFacts
from preheat.errors import NotABundleError

MANIFEST = Manifest(
    digest="d",
    pipeline=Pipeline("p", "n", 1),
    source=SourceFacts("s3://bucket/key", "etag:1", 9, "torch-zip", "raw"),
    files={"model.safetensors": 9},
    tensors={"w": TensorFacts("F32", (2,))},
    seconds={"total": 1},
)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("digest", None),
        ("seconds", True),
        ("seconds", {"total": "long"}),
        ("aliases", {"a": 1}),
        ("continueOnError", 1),
        ("stages", "ab"),
        ("files", {"a": {"bytes": "9"}}),
        ("tensors", {"w": {"dtype": 32, "shape": [2], "crc32": None}}),
        ("tensors", {"w": {"dtype": "F32", "shape": "2", "crc32": None}}),
        ("tensors", {"w": {"dtype": "F32", "shape": [2.0], "crc32": None}}),
        ("pipeline", {"name": [], "namespace": "", "generation": 1}),
        ("source", {"uri": "", "version": "", "sizeBytes": None, "format": "", "layout": ""}),
    ],
)
def test_a_field_of_another_type_is_no_manifest(part: str, value: object) -> None:
    document = {**json.loads(MANIFEST.to_json()), part: value}
    with pytest.raises(NotABundleError, match="its manifest cannot be read"):
        Manifest.from_json(json.dumps(document))
