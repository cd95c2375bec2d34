"""Folders of peft, Diffusers and Transformers: by their file names, and as these libraries save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.test_shards import loaded
from safetensors.torch import save_file

from preheat.blob import Patience
from preheat.errors import CheckpointLoadError
from preheat.formats import read_index
from preheat.index import Index
from preheat.sources.local import LocalSource

TENSORS = {"base_model.model.q.lora_A.weight": torch.randn(2, 5), "base_model.model.q.lora_B.weight": torch.randn(5, 2)}


def index_of(path: Path) -> Index:
    blob = LocalSource(str(path)).open(Patience())
    try:
        return read_index(blob)
    finally:
        blob.close()


def weights(folder: Path, volume: Path) -> dict[str, torch.Tensor]:
    return loaded({"local": {"path": str(folder)}}, volume)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_what_an_adapter_adapts_is_state(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        index = index_of(path)
        assert index.tensors.keys() == TENSORS.keys()
        assert index.state["adapter_config"] == {"peft_type": "LORA", "r": 2}
    assert_same(weights(tmp_path, tmp_path / "volume"), TENSORS)


def test_an_adapter_may_be_a_torch_file_and_alone(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "adapter_model.bin")
    assert index_of(tmp_path).state == {}
    assert_same(weights(tmp_path, tmp_path / "volume"), TENSORS)


@pytest.mark.parametrize("content", ["{", "[" * 100_000, '"' + "x" * (1 << 20) + '"'], ids=["cut", "deep", "long"])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    save_file(TENSORS, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(CheckpointLoadError, match=r"adapter_config\.json"):
        index_of(tmp_path)


@pytest.mark.parametrize(
    "index", ["model.safetensors.index.fp16.json", "diffusion_pytorch_model.safetensors.index.json"]
)
def test_variants_and_parts_of_diffusers_are_folders(tmp_path: Path, index: str) -> None:
    save_file(TENSORS, tmp_path / "part-00001-of-00001.safetensors")
    (tmp_path / index).write_text(json.dumps({"weight_map": dict.fromkeys(TENSORS, "part-00001-of-00001.safetensors")}))
    assert index_of(tmp_path / index).tensors.keys() == TENSORS.keys()


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "pytorch_lora_weights.safetensors"])
def test_single_files_of_diffusers_are_found(tmp_path: Path, name: str) -> None:
    save_file(TENSORS, tmp_path / name)
    assert index_of(tmp_path).tensors.keys() == TENSORS.keys()


def language_model() -> Any:
    transformers = pytest.importorskip("transformers", reason="Transformers is not installed")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 100}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(num_attention_heads=4, **sizes))


@pytest.mark.filterwarnings("ignore")
def test_what_transformers_saves_in_shards_is_its_state_dict(tmp_path: Path) -> None:
    model = language_model()
    model.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 3
    assert_same(weights(tmp_path / "saved", tmp_path / "volume"), model.state_dict())


@pytest.mark.filterwarnings("ignore")
def test_what_peft_saves_is_what_it_loads(tmp_path: Path) -> None:
    model = language_model()
    peft = pytest.importorskip("peft", reason="peft is not installed")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "saved")
    theirs = peft.utils.save_and_load.load_peft_weights(str(tmp_path / "saved"), device="cpu")
    assert_same(weights(tmp_path / "saved", tmp_path / "volume"), theirs)
    assert index_of(tmp_path / "saved").state["adapter_config"]["r"] == 4


@pytest.mark.filterwarnings("ignore")
def test_what_diffusers_saves_is_its_state_dict(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="Diffusers is not installed")
    model = diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8)
    model.save_pretrained(tmp_path / "saved", max_shard_size="100KB")
    assert_same(weights(tmp_path / "saved", tmp_path / "volume"), model.state_dict())
