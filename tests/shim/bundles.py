"""Small real bundles: tensors written by the safetensors library, a manifest by Preheat's own class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from preheat.bundle.manifest import MANIFEST, WEIGHTS, Manifest, Pipeline, SourceFacts, TensorFacts
from preheat.strategies.filling.tensors import dtype_name

WEIGHTS_ONLY = {"weightsOnly": {}}


def write_bundle(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    stages: Sequence[Mapping[str, Any]] = (WEIGHTS_ONLY,),
    aliases: Mapping[str, str] | None = None,
    **facts: Any,
) -> Path:
    """A finished bundle of `tensors`; `aliases` are further names of some of them."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / WEIGHTS
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, weights)
    manifest = Manifest(
        digest="0" * 32,
        pipeline=Pipeline("finetune", "team-a", 1),
        source=SourceFacts("s3://models/pretrained.ckpt", "etag:abc", 4096, "torch-zip", "lightning"),
        files={WEIGHTS: weights.stat().st_size},
        tensors={name: TensorFacts(dtype_name(t.dtype), tuple(t.shape)) for name, t in tensors.items()},
        aliases=aliases or {},
        stages=tuple(stages),
        **facts,
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder
