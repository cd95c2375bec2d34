"""Sizes that differ and are bridged: against bicubic interpolation written down anew, as matrices; refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shim import bridged_process
from shim.bundles import write_bundle

import preheat
from preheat import CheckpointConfigError, CheckpointContext, CheckpointPipeline
from preheat.bundle.data import open_bundle
from preheat.errors import CheckpointIncompatibleError, NothingMatchedError
from preheat.shim.reports.tree import leaves, model_tree
from preheat.strategies.bridging import Overlap, bridge
from preheat.strategies.filling.shards import Target
from preheat.strategies.filling.slices import Cut, region_of, shape_of
from preheat.strategies.matching import Entry, match
from preheat.strategies.resizing import fill_bridged
from preheat.strategies.weights import IndexedWeights, LoadedWeights


def cubic(x, a):
    """Keys' kernel."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def table_matrix(old, new):
    """Plain bicubic: four neighbours, those outside are the border's."""
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for offset in range(-1, 3):
        places = centres.floor() + offset
        weights = cubic(centres - places, -0.75)
        matrix.scatter_add_(1, places.clamp(0, old - 1).long()[:, None], weights[:, None])
    return matrix


def embedding_matrix(old, new):
    """As image libraries shrink: the kernel is widened with the grid, what is outside does not count."""
    scale = max(old / new, 1.0)
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * old / new
    weights = cubic((torch.arange(old, dtype=torch.float64) + 0.5 - centres[:, None]) / scale, -0.5)
    return weights / weights.sum(1, keepdim=True)


def resized(grid, rows, columns):
    """A grid of [height, width, channels]."""
    return torch.einsum("ah,bw,hwc->abc", rows, columns, grid.double()).float()


def module(tensors):
    made = torch.nn.Module()
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            made.register_parameter(name, torch.nn.Parameter(tensor.clone()))
        else:
            made.register_buffer(name, tensor.clone())
    return made


def load(strategy, tensors, model):
    context = CheckpointContext(model=model, checkpoint_data={"state_dict": tensors})
    return CheckpointPipeline([strategy]).execute_sync(context)


def interpolated(name, values, shape):
    torch.manual_seed(0)
    model = module({name: torch.full(shape, 7.0), "w": torch.zeros(1)})
    done = load({"weightsOnly": {"interpolate": [name]}}, {name: values, "w": torch.ones(1)}, model)
    return getattr(model, name).detach(), done.metadata["resized_params"][name]


@pytest.mark.parametrize(("old", "new"), [(13, 23), (23, 13), (7, 13)])
@pytest.mark.parametrize("after", [0, 3])
def test_tables_of_relative_positions_are_those_of_another_window(old, new, after):
    table = torch.randn(old * old + after, 4)
    found, said = interpolated("relative_position_bias_table", table, (new * new + after, 4))
    matrix = table_matrix(old, new)
    grid = resized(table[: old * old].view(old, old, 4), matrix, matrix)
    torch.testing.assert_close(found[: new * new], grid.reshape(-1, 4), atol=1e-5, rtol=1e-5)
    assert torch.equal(found[new * new :], table[old * old :])
    kept = ", the last 3 kept" if after else ""
    assert said == f"{list(table.shape)} -> {list(found.shape)}: {old}x{old} -> {new}x{new} positions, bicubic{kept}"


@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (2, 3)])
@pytest.mark.parametrize("before", [0, 1, 2, 5])
@pytest.mark.parametrize("leading", [(), (1,)], ids=["rows", "batch"])
def test_position_embeddings_are_those_of_another_grid_and_tokens_stay(old, new, before, leading):
    embedding = torch.randn(*leading, before + old * old, 6)
    found, said = interpolated("pos_embed", embedding, (*leading, before + new * new, 6))
    found, embedding = found.reshape(-1, 6), embedding.reshape(-1, 6)
    matrix = embedding_matrix(old, new)
    grid = resized(embedding[before:].view(old, old, 6), matrix, matrix)
    torch.testing.assert_close(found[before:], grid.reshape(-1, 6), atol=1e-5, rtol=1e-5)
    assert torch.equal(found[:before], embedding[:before])
    assert said.endswith(
        f"{old}x{old} -> {new}x{new} positions, bicubic" + (f", the first {before} kept" * (before > 0))
    )


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((1, 5, 4, 6), (1, 5, 8, 3)),
        ((1, 5, 4, 6), (1, 5, 8, 6)),
        ((1, 4, 6, 5), (1, 8, 3, 5)),
        ((1, 4, 6, 5), (1, 4, 3, 5)),
    ],
)
def test_embeddings_in_the_shape_of_an_image_may_have_any_sides(source, target):
    values = torch.randn(source)
    found, _ = interpolated("pos_embed", values, target)
    last = source[3] == target[3] == 5  # channels last
    image = values[0] if last else values[0].movedim(0, -1)
    sides = target[1:3] if last else target[2:]
    grid = resized(image, *(embedding_matrix(old, new) for old, new in zip(image.shape, sides, strict=False)))
    torch.testing.assert_close(found[0], grid if last else grid.movedim(-1, 0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("old", "new"), [((4, 4), (6, 6)), ((4, 4), (7, 5))])
def test_a_kernel_answers_to_resized_patches_as_it_did_to_the_patches(old, new):
    kernel, patches = torch.randn(8, 3, *old), torch.randn(5, 3, *old)
    found, said = interpolated("proj", kernel, (8, 3, *new))
    rows, columns = (embedding_matrix(*sides) for sides in zip(old, new, strict=True))
    larger = torch.einsum("ah,bw,nchw->ncab", rows, columns, patches.double()).float()
    conv = torch.nn.functional.conv2d
    torch.testing.assert_close(conv(larger, found), conv(patches, kernel), atol=1e-4, rtol=1e-4)
    assert said.endswith(f"kernel 4x4 -> {new[0]}x{new[1]}, by the pseudo-inverse of bicubic resizing")


def test_a_smaller_kernel_is_the_nearest_in_least_squares():
    kernel = torch.randn(2, 1, 6, 6)
    found, _ = interpolated("proj", kernel, (2, 1, 4, 4))
    matrix = embedding_matrix(6, 4)
    seen = torch.kron(matrix, matrix).float()  # what the smaller kernel sees of each pixel
    wanted = torch.linalg.lstsq(seen.T, kernel.flatten(1).T).solution
    torch.testing.assert_close(found.flatten(1).T, wanted, atol=1e-4, rtol=1e-4)


@given(st.integers(2, 60), st.integers(2, 60), st.integers(0, 16))
def test_the_number_of_tokens_is_never_in_doubt(old, new, before):
    sizes = [{"pos_embed": Entry("F32", (before + side * side, 1))} for side in (old, new)]
    made = bridge("X", *sizes, ["pos"], []).by_name
    assert [(how.before, how.old, how.new) for how in made.values()] == (
        [(before, (old, old), (new, new))] if old != new else []
    )


def test_values_in_another_precision_are_interpolated_in_float32():
    embedding = torch.randn(1, 5, 4).bfloat16()
    model = module({"pos_embed": torch.zeros(1, 17, 4, dtype=torch.float16)})
    done = load({"coldStart": {"interpolate": ["^pos"]}}, {"pos_embed": embedding}, model)
    matrix = embedding_matrix(2, 4)
    grid = resized(embedding[0, 1:].float().view(2, 2, 4), matrix, matrix).half().reshape(-1, 4)
    torch.testing.assert_close(model.pos_embed[0, 1:].detach(), grid)
    assert done.metadata["dtype_casts"] == {"pos_embed": "BF16 -> F16"}


OVERLAPS = [
    ((6, 4), (9, 4), "6 rows copied"),
    ((9, 4), (6, 4), "6 rows copied"),
    ((6, 4), (6, 7), "4 columns copied"),
    ((6, 4), (9, 2), "6 rows, 2 columns copied"),
    ((8, 3, 2, 2), (8, 5, 2, 2), "3 entries of axis 1 copied"),
    ((6,), (9,), "6 rows copied"),
]


@pytest.mark.parametrize(("source", "target", "said"), OVERLAPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bundled", [True, False])
def test_the_overlap_is_copied_and_the_rest_keeps_its_initial_value(
    source, target, said, dtype, bundled, tmp_path, monkeypatch
):
    values = torch.randn(source)
    initial = torch.randn(target).to(dtype)
    model = module({"embed": initial, "w": torch.zeros(1)})
    model.embed.requires_grad_(False)
    strategy, tensors = {"weightsOnly": {"overlap": ["embed"]}}, {"embed": values, "w": torch.ones(1)}
    if bundled:
        monkeypatch.setenv("PREHEAT_BUNDLE", str(write_bundle(tmp_path, tensors, [strategy])))
        reported = preheat.apply(model).resized
    else:
        reported = load(strategy, tensors, model).metadata["resized_params"]
    part = tuple(slice(0, min(lengths)) for lengths in zip(source, target, strict=True))
    wanted = initial.clone()
    wanted[part] = values[part].to(dtype)
    assert torch.equal(model.embed, wanted)
    assert reported == {"embed": f"{list(source)} -> {list(target)}: {said}"}


def test_of_what_is_overlapped_nothing_else_is_read(tmp_path):
    data = open_bundle(write_bundle(tmp_path, {"embed": torch.randn(4000, 64), "z": torch.zeros(1)}))
    before, target = data.blob.fetched, torch.zeros(100, 64)
    how = {"embed": Overlap((4000, 64), (100, 64))}
    moved = fill_bridged(IndexedWeights(data.blob, data.index.tensors), {"embed": Target(target)}, how)
    assert moved == data.blob.fetched - before == target.nbytes
    data.close()


def test_a_bridged_pair_is_moved_cast_and_loaded():
    checkpoint, model = (
        {"a": Entry("F32", (2,)), "b": Entry("F32", (2,))},
        {"a": Entry("BF16", (3,)), "b": Entry("I8", (3,))},
    )
    bridges = {name: Overlap((2,), (3,)) for name in model}
    found = match(checkpoint, model, bridges)
    assert (found.pairs, found.loaded, found.casts) == (("a",), ("a",), {"a": "F32 -> BF16"})
    assert found.bridged == {"a": "[2] -> [3]: 2 rows copied"}
    assert found.mismatched == {"b": "dtype F32, model has I8"}


def test_a_vocabulary_that_is_tied_to_its_head_grows_once():
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(8, 3), "head": torch.nn.Linear(3, 8, bias=False)})
    model["head"].weight = model["embed"].weight
    initial, words = model["embed"].weight.detach().clone(), torch.randn(5, 3)
    done = load({"weightsOnly": {"overlap": ["embed"]}}, {"embed.weight": words}, model)
    assert torch.equal(model["head"].weight, torch.cat([words, initial[5:]]))
    assert done.metadata["transferred_params"] == ["embed.weight", "head.weight"]


def test_on_the_meta_device_the_rest_is_initialised_by_its_module():
    with torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.Embedding(50, 3), torch.nn.LayerNorm(3))
    words, norm = torch.full((20, 3), 9.0), {"1.weight": torch.ones(3), "1.bias": torch.ones(3)}
    load({"weightsOnly": {"overlap": ["^0"]}}, {"0.weight": words, **norm}, model)
    assert torch.equal(model[0].weight[:20], words)
    assert 0.5 < model[0].weight[20:].std() < 1.5
    with torch.device("meta"):
        lone = torch.nn.ParameterDict({"table": torch.nn.Parameter(torch.zeros(50, 3))})
    with pytest.raises(CheckpointIncompatibleError, match="table would have no value"):
        load({"weightsOnly": {"overlap": ["table"]}}, {"table": words}, lone)


@given(st.data())
def test_processes_that_hold_parts_of_it_hold_what_one_process_would(data):
    source, target = ([data.draw(st.integers(1, 7)) for _ in range(2)] for _ in range(2))
    world, axis, blocks = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 1)), data.draw(st.integers(1, 2))
    values = torch.arange(1.0, 1 + source[0] * source[1]).view(source)
    how = bridge("X", {"a": Entry("F32", tuple(source))}, {"a": Entry("F32", tuple(target))}, [], ["a"]).by_name
    wanted = torch.zeros(target)
    fill_bridged(LoadedWeights({"a": values}), {"a": Target(wanted)}, how)
    if not how:
        assert torch.equal(wanted, values)
    for index in range(world):
        region = region_of(target, [Cut(axis, world, index, blocks)])
        held = torch.zeros(shape_of(region))
        fill_bridged(LoadedWeights({"a": values}), {"a": Target(held, region)}, how)
        rows = [n for start, stop in region[axis] for n in range(start, stop)]
        assert torch.equal(held, wanted.index_select(axis, torch.tensor(rows, dtype=torch.int64)))


def test_two_processes_with_a_sharded_model_get_what_one_would(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "words.weight": torch.randn(7, 6),
        "columns.weight": torch.randn(6, 7),
        "pos_embed": torch.randn(1, 5, 6),
    }
    stages = [{"weightsOnly": {"interpolate": ["^pos_embed$"], "overlap": ["^words", "^columns"]}}]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    environment["PREHEAT_BUNDLE"] = str(write_bundle(tmp_path / "bundle", tensors, stages))
    environment["PREHEAT_REPORT"] = str(tmp_path / "report.json")
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, bridged_process.__file__, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    state = {name: torch.tensor(values) for name, values in seen["state"].items()}
    single = bridged_process.Net(11, 26)
    load(stages[0], tensors, single)
    assert torch.equal(state["pos_embed"], single.pos_embed)
    assert torch.equal(state["words.weight"][:7], tensors["words.weight"])
    assert torch.equal(state["columns.weight"][:, :7], tensors["columns.weight"])
    assert state["words.weight"][7:].std() > 0.3
    assert set(seen["resized"]) == set(tensors)


def refused(name, source, target, field="interpolate", dtype="F32"):
    given = {"interpolate": [], "overlap": []} | {field: [name]}
    with pytest.raises(CheckpointIncompatibleError) as caught:
        bridge("X", {name: Entry(dtype, source)}, {name: Entry(dtype, target)}, **given)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "source", "target", "reason"),
    [
        ("relative_attention_bias.weight", (32, 8), (64, 8), "distances in words, in buckets"),
        ("relative_position_bias_table", (169, 4), (529, 8), "differ in more than a number of positions"),
        ("relative_position_bias_table", (169, 4), (144, 4), "not the relative positions of square windows"),
        ("relative_position_bias_table", (169, 4), (532, 4), "not the relative positions of square windows"),
        ("pos_embed", (1, 197, 8), (1, 200, 8), "not square grids after the same number of tokens"),
        ("pos_embed", (1, 197, 8), (1, 578, 8), "not square grids after the same number of tokens"),
        ("pos_embed", (1, 197, 8), (197, 8), "differ in more than a number of positions"),
        ("pos_embed", (2, 197, 8), (2, 577, 8), "differ in more than a number of positions"),
        ("pos_embed", (1, 8, 0, 4), (1, 8, 4, 4), "nothing to interpolate"),
        ("pos_embed", (197,), (577,), "differ in more than a number of positions"),
        ("patch_embed.weight", (64, 3, 16, 16), (64, 4, 14, 14), "differ in more than a grid"),
        ("pos_embed", (1, 8, 4, 4), (1, 9, 4, 5), "differ in more than a grid"),
    ],
)
def test_what_is_no_grid_is_refused_by_name(name, source, target, reason):
    said = refused(name, source, target)
    assert f"{name} (" in said
    assert reason in said


def test_whole_numbers_are_not_interpolated():
    assert "dtype I64" in refused("pos_embed", (197, 8), (577, 8), dtype="I64")


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [((4, 4), (4, 4, 1), "another number of axes"), ((0, 4), (3, 4), "nothing in common")],
)
def test_what_does_not_overlap_is_refused(source, target, reason):
    assert reason in refused("embed", source, target, field="overlap")


def test_a_name_in_both_lists_is_refused():
    entries = [{"pos": Entry("F32", (side * side, 2))} for side in (2, 3)]
    with pytest.raises(CheckpointIncompatibleError, match="named by interpolate and by overlap"):
        bridge("X", *entries, ["pos"], ["po"])


@pytest.mark.parametrize("field", ["interpolate", "overlap"])
def test_a_pattern_that_names_nothing_is_refused_untouched(field):
    model = module({"embed": torch.zeros(3)})
    with pytest.raises(NothingMatchedError, match=rf"WeightsOnlyLoader\.{field} 'embedd' .*did you mean 'embed'"):
        load({"weightsOnly": {field: ["embedd"]}}, {"embed": torch.ones(3)}, model)
    assert model.embed.eq(0).all()


def test_a_pattern_whose_sizes_are_equal_is_only_noted():
    model = module({"embed": torch.zeros(3)})
    done = load({"weightsOnly": {"overlap": ["embed"]}}, {"embed": torch.ones(3)}, model)
    assert model.embed.eq(1).all()
    assert done.metadata["loading_notes"] == ["nothing to bridge for 'embed': no size differs"]


@pytest.mark.parametrize("stage", [{"weightsOnly": {"overlap": "embed"}}, {"coldStart": {"interpolate": ["("]}}])
def test_patterns_are_checked_when_the_stage_is_built(stage):
    with pytest.raises(CheckpointConfigError, match=r"give a list|not a regular expression"):
        CheckpointPipeline([stage])


def test_a_warm_start_bridges_nothing():
    with pytest.raises(CheckpointConfigError, match="unknown parameter 'overlap'"):
        CheckpointPipeline([{"warmStart": {"overlap": ["embed"]}}])


def window(side):
    size = 2 * side - 1
    index = torch.arange(side**4).view(side * side, side * side)
    return {
        "relative_position_bias_table": torch.randn(size * size, 2), "relative_position_index": index,
        "attn_mask": torch.zeros(4, side * side, side * side), "qkv": torch.randn(6, 2),
    }  # fmt: skip


def test_indexes_that_the_model_computes_stay_its_own():
    torch.manual_seed(0)
    tensors, model = window(4), module(window(7))
    index = model.relative_position_index.clone()
    done = load({"weightsOnly": {"interpolate": ["bias_table"]}}, tensors, model)
    assert torch.equal(model.relative_position_index, index)
    assert done.metadata["initial_params"] == dict.fromkeys(
        ["attn_mask", "relative_position_index"], "computed by the model"
    )
    assert done.metadata["skipped_params"] == done.metadata["initial_params"]
    assert torch.equal(model.qkv, tensors["qkv"])


def test_without_being_asked_nothing_is_bridged():
    done = load({"transferLearning": {}}, window(4), module(window(7)))
    assert done.metadata["resized_params"] == {}
    assert done.metadata["transferred_params"] == ["qkv"]


def test_the_report_names_what_was_resized(tmp_path, monkeypatch):
    strategy = {"weightsOnly": {"interpolate": ["bias_table"], "overlap": ["^qkv$"]}}
    tensors = {name: tensor for name, tensor in window(4).items() if name != "attn_mask"} | {"qkv": torch.ones(3, 2)}
    monkeypatch.setenv("PREHEAT_BUNDLE", str(write_bundle(tmp_path / "bundle", tensors, [strategy])))
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    report = preheat.apply(module({**window(7), "qkv": torch.zeros(6, 2, dtype=torch.float64)}))
    assert "resized 2 (qkv: [3, 2] -> [6, 2]: 3 rows copied, relative_position_bias_table: [49, 2]" in report.line()
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["totals"]["resized"] == 2
    assert written["resized"]["qkv"] == "[3, 2] -> [6, 2]: 3 rows copied"
    states = {leaf.name: (leaf.state, leaf.reason) for leaf in leaves(model_tree(written))}
    assert states["qkv"] == ("resized", "[3, 2] -> [6, 2]: 3 rows copied, then F32 -> F64")
    assert states["relative_position_index"] == ("reset", "computed by the model")
