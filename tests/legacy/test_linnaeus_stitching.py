"""What linnaeus' model zoo and `load_pretrained` do, declared; and what went wrong there without a word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from legacy.linnaeus_files import ROPE_DEPTHS, MFormerV0, MFormerV1, convnext, metaformer, ropevit

from preheat import CheckpointContext, CheckpointPipeline
from preheat.errors import CheckpointError, CheckpointIncompatibleError, NothingMatchedError
from preheat.names import left_out

#: The pipeline that the documentation shows.
STITCHED = Path(__file__).parents[2] / "examples" / "pipelines" / "stitched.yaml"


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    convnext(tmp_path / "convnext_tiny_22k_1k_384.pth")
    ropevit(tmp_path / "ropevit_base_patch16_224.pth")
    return tmp_path


def place(path: Path) -> dict[str, Any]:
    return {"local": {"path": str(path)}}


def stitched(zoo: Path, **of_first: Any) -> dict[str, Any]:
    """The documentation's merge, of files in a folder."""
    sources = yaml.safe_load(STITCHED.read_text())["spec"]["stages"][0]["merge"]["sources"]
    placed = [{**each, "from": place(zoo / Path(each["from"]["s3"]["key"]).name)} for each in sources]
    return {"merge": {"sources": [placed[0] | of_first, *placed[1:]]}}


def load(model: torch.nn.Module, *stages: dict[str, Any]) -> CheckpointContext:
    return CheckpointPipeline(stages).execute_sync(CheckpointContext(model=model))


def test_a_model_is_stitched_of_two(zoo: Path) -> None:
    convolutions = torch.load(zoo / "convnext_tiny_22k_1k_384.pth")["model"]
    attention = torch.load(zoo / "ropevit_base_patch16_224.pth")["state_dict"]
    model = MFormerV1()
    done = load(
        model,
        stitched(zoo),
        {"weightsOnly": {"keep": ["^head", "^meta_", "^(final_norm|norm_[12])", r"^downsample_layers\.2"]}},
    )
    found = model.state_dict()
    assert torch.equal(found["stem.0.weight"], convolutions["downsample_layers.0.0.weight"])
    assert torch.equal(found["downsample_layers.0.1.weight"], convolutions["downsample_layers.1.1.weight"])
    assert torch.equal(found["stages.1.1.pwconv1.weight"], convolutions["stages.1.1.pwconv1.weight"])
    assert torch.equal(found["stages.2.9.attn.qkv.weight"], attention["blocks.9.attn.qkv.weight"])
    assert torch.equal(found["stages.3.1.attn.qkv.weight"], attention["blocks.11.attn.qkv.weight"])
    assert torch.equal(found["cls_token_1"], attention["cls_token"])
    assert torch.equal(found["cls_token_2"], attention["cls_token"])
    assert done.metadata["skipped_params"] == {}


def test_both_stages_have_a_token_of_their_own(zoo: Path) -> None:
    model = MFormerV1()
    load(model, stitched(zoo), {"transferLearning": {}})
    with torch.no_grad():
        model.cls_token_1.zero_()
    assert model.cls_token_2.abs().sum() > 0


def test_frequencies_are_named_for_every_block_that_is_to_have_them(zoo: Path) -> None:
    """linnaeus copies them where frequencies are mixed; nothing is guessed here, and each name is one source."""
    vit, model = place(zoo / "ropevit_base_patch16_224.pth"), MFormerV1(mixed=True)
    named = [f"stages.3.{block}.attn.freqs" for block in range(ROPE_DEPTHS[1])]
    parts = [
        {"from": vit, "select": ["^freqs$"], "rename": [{"pattern": "^freqs$", "replacement": name}]} for name in named
    ]
    done = load(model, {"merge": {"sources": parts}}, {"transferLearning": {}})
    assert done.metadata["transferred_params"] == named
    assert not model.state_dict()["stages.2.0.attn.freqs"].any()


def test_a_shape_that_differs_is_skipped_where_that_is_asked_for_and_said(zoo: Path) -> None:
    model = MFormerV1()
    model.stem = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 4), torch.nn.LayerNorm(4, bias=False))
    done = load(model, stitched(zoo), {"transferLearning": {}})
    assert done.metadata["skipped_params"] == {"stem.0.weight": "shape [4, 3, 4, 4], model has [5, 3, 4, 4]"}
    with pytest.raises(CheckpointIncompatibleError, match=r"stem\.0\.weight \(shape"):
        load(model, stitched(zoo), {"transferLearning": {"skipMismatched": False}})


@pytest.mark.parametrize("prefix", ["", "module."], ids=["plain", "wrapped"])
@pytest.mark.parametrize("key", ["model", "state_dict_ema", ""], ids=["model", "averages", "raw"])
def test_weights_are_found_wherever_they_were_saved(tmp_path: Path, key: str, prefix: str) -> None:
    weights = convnext(tmp_path / "convnext_tiny_22k_1k_384.pth", key, prefix)
    ropevit(tmp_path / "ropevit_base_patch16_224.pth")
    model, names = MFormerV1(), [rf"^{prefix}downsample_layers\.[012]\.", rf"^{prefix}stages\.[01]\."]
    source = stitched(tmp_path, select=names, stripPrefix=[prefix] if prefix else [])
    load(model, source, {"transferLearning": {}})
    assert torch.equal(model.stem[0].weight, weights[f"{prefix}downsample_layers.0.0.weight"])


def test_a_file_that_is_gone_is_an_error_and_no_random_model(zoo: Path) -> None:
    (zoo / "ropevit_base_patch16_224.pth").unlink()
    model = MFormerV1()
    with pytest.raises(CheckpointError, match=r"ropevit_base_patch16_224\.pth"):
        load(model, stitched(zoo), {"transferLearning": {}})
    assert not any(parameter.any() for parameter in model.parameters())


def test_what_one_model_leaves_out_cannot_undo_what_another_has_given(zoo: Path) -> None:
    """mFormerV1's `drop_params` names `downsample_layers.` and `norm.`, which the stitcher has just filled."""
    dropped = [r"^head\.", r"^norm\.", r"^downsample_layers\.3\."]
    model = MFormerV1()
    source = stitched(zoo, select=[], exclude=[*dropped, r"^stages\.[23]\."])
    load(model, source, {"transferLearning": {}})
    assert model.stages[0][0].norm.weight.any()
    assert model.downsample_layers[0]["1"].weight.any()


#: linnaeus' `drop_params`: what it writes, and the same as an `exclude`. A pattern that does not end in a dot ends
#: at the end of a word there; a dot is any character, in both.
DROPPED = [
    ("head.", "head."), ("norm.", "norm."), ("pos_embed", r"pos_embed\b"), ("downsample_layers.", "downsample_layers."),
]  # fmt: skip


@pytest.mark.parametrize(("theirs", "ours"), DROPPED)
def test_a_pattern_of_theirs_means_the_same_here(theirs: str, ours: str, zoo: Path) -> None:
    names = [
        *torch.load(zoo / "convnext_tiny_22k_1k_384.pth")["model"],
        "pos_embed",
        "pos_embed_x",
        "prenorm.a",
        "ahead.b",
    ]
    search = theirs if theirs.endswith(".") else theirs + r"\b"
    assert set(left_out("convert", names, [], [ours])) == {name for name in names if re.search(search, name)}


def test_a_pattern_of_theirs_that_never_drops_anything_is_an_error_here(zoo: Path) -> None:
    r"""`meta_` becomes `meta_\b` there, and no name ends a word behind its underscore."""
    metaformer(zoo / "metafg_0.pth", 3)
    with pytest.raises(NothingMatchedError, match=r"exclude 'meta_\\\\b' matches none of 7 tensors"):
        load(MFormerV0(3), place(zoo / "metafg_0.pth"), {"convert": {"exclude": [r"meta_\b"]}}, {"weightsOnly": {}})


@pytest.mark.parametrize("ours", [3, 5], ids=["as theirs", "larger"])
def test_tables_of_relative_positions_are_interpolated(tmp_path: Path, ours: int) -> None:
    theirs = metaformer(tmp_path / "metafg_0.pth", 3)
    model = MFormerV0(ours)
    leaving = {"exclude": [r"^head|head\.fc", "meta_.*head_[12]"], "keep": ["^head"]}
    table = {"interpolate": ["relative_position_bias_table$"]}
    done = load(model, place(tmp_path / "metafg_0.pth"), {"weightsOnly": {**leaving, **table}})
    name = "stage_3.0.attn.relative_position_bias_table"
    found, index = model.state_dict()[name], model.state_dict()["stage_3.0.attn.relative_position_index"]
    if ours == 3:
        assert torch.equal(found, theirs[name])
        return
    grid = theirs[name].T.reshape(1, 2, 5, 5)
    resized = torch.nn.functional.interpolate(grid, size=(9, 9), mode="bicubic")
    assert torch.allclose(found, resized.flatten(2)[0].T, atol=1e-6)
    assert done.metadata["resized_params"] == {name: "[25, 2] -> [81, 2]: 5x5 -> 9x9 positions, bicubic"}
    assert bool((index == 1).all()), "an index is the model's own"


def test_a_table_in_one_of_several_sources_is_interpolated_too(tmp_path: Path) -> None:
    metaformer(tmp_path / "metafg_0.pth", 3)
    convnext(tmp_path / "convnext.pth")
    model = torch.nn.ModuleDict(
        {"meta": MFormerV0(5), "stem": torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, bias=False))}
    )
    one = {"from": place(tmp_path / "metafg_0.pth"), "select": [r"^stage_3\.", "^norm_1"], "addPrefix": "meta."}
    other = {
        "from": place(tmp_path / "convnext.pth"),
        "select": [r"^downsample_layers\.0\.0\."],
        "rename": [{"pattern": r"^downsample_layers\.0", "replacement": "stem"}],
    }
    strategy = {"weightsOnly": {"interpolate": ["relative_position_bias_table$"], "keep": [r"^meta\.head"]}}
    done = load(model, {"merge": {"sources": [one, other]}}, strategy)
    assert list(done.metadata["resized_params"]) == ["meta.stage_3.0.attn.relative_position_bias_table"]
    assert done.metadata["origins"]["stem.0.weight"] == 1


def test_two_that_give_the_same_name_are_refused_with_both(zoo: Path) -> None:
    both = [
        {"from": place(zoo / name), "select": [r"^head\.weight$"]} for name in sorted(p.name for p in zoo.iterdir())
    ]
    with pytest.raises(CheckpointIncompatibleError) as caught:
        load(MFormerV1(), {"merge": {"sources": both}}, {"transferLearning": {}})
    message = str(caught.value)
    assert re.search(r"sources\[0\] \(.*convnext_tiny_22k_1k_384\.pth\)", message)
    assert re.search(r"sources\[1\] \(.*ropevit_base_patch16_224\.pth\)", message)
    assert "both give head.weight. Select or exclude in one of them" in message
