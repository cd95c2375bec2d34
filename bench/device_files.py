"""The bundles that are loaded into a device: made of one block of random values, so that they are made quickly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from preheat.bundle.manifest import MANIFEST, WEIGHTS, Manifest, Pipeline, SourceFacts, TensorFacts

BLOCK = 64 << 20  # bytes
ITEMSIZE = {"F32": 4, "BF16": 2}

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Model:
    """What a file holds."""

    what: str
    dtype: str
    shapes: Shapes

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(map(prod, self.shapes.values())) * ITEMSIZE[self.dtype]


def models(scale: float = 1.0) -> dict[str, Model]:
    """Those of the protocol; `scale` makes fewer layers of them, to try the bench."""
    return {
        "small": Model("9,000 small tensors", "BF16", _experts(_at_least_one(60 * scale))),
        "llama": Model("Llama-3-8B", "BF16", _llama(_at_least_one(32 * scale))),
        "mixed": Model("2.2 GB of float32", "F32", _mixed(_at_least_one(74 * scale))),
    }


def make_bundle(folder: Path, model: Model) -> Path:
    """A finished bundle in `folder`, unless there is one already."""
    if (folder / MANIFEST).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / WEIGHTS, model)
    manifest = Manifest(
        digest="0" * 32,
        pipeline=Pipeline("bench", "bench", 1),
        source=SourceFacts("file://bench", "none", model.size, "safetensors", "safetensors"),
        files={WEIGHTS: (folder / WEIGHTS).stat().st_size},
        tensors={name: TensorFacts(model.dtype, shape) for name, shape in model.shapes.items()},
        aliases={},
        stages=({"weightsOnly": {}},),
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder


def _write(path: Path, model: Model) -> None:
    entries, position = {}, 0
    for name, shape in model.shapes.items():
        end = position + prod(shape) * ITEMSIZE[model.dtype]
        entries[name] = {"dtype": model.dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    torch.manual_seed(7)
    values = torch.randn(BLOCK // ITEMSIZE[model.dtype]).to(torch.float32 if model.dtype == "F32" else torch.bfloat16)
    block = memoryview(values.view(torch.uint8).numpy())
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, position, BLOCK - 4096):  # not the block's size: neighbours differ
            file.write(block[: min(BLOCK - 4096, position - start)])


def _at_least_one(count: float) -> int:
    return max(1, round(count))


def _llama(layers: int) -> Shapes:
    width, heads, inner, words = 4096, 1024, 14336, 128256
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, width)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for name, shape in {
            "self_attn.q_proj": (width, width), "self_attn.k_proj": (heads, width), "self_attn.v_proj": (heads, width),
            "self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner), "input_layernorm": (width,), "post_attention_layernorm": (width,),
        }.items():  # fmt: skip
            shapes[f"{at}.{name}.weight"] = shape
    return shapes | {"model.norm.weight": (width,), "lm_head.weight": (words, width)}


def _experts(layers: int) -> Shapes:
    at = (f"layers.{layer}.experts.{expert}.{n}" for layer in range(layers) for expert in range(50) for n in range(3))
    return {f"{name}.weight": (512, 868) for name in at}  # 0.9 MB each


def _mixed(layers: int) -> Shapes:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for name, shape in {
            "attention.in": (2700, 900), "attention.out": (900, 900), "inner": (2250, 900), "outer": (900, 2250),
        }.items():  # fmt: skip
            shapes[f"layers.{layer}.{name}.weight"] = shape
            shapes[f"layers.{layer}.{name}.bias"] = shape[:1]
    return shapes | {"head.weight": (900, 900)}
