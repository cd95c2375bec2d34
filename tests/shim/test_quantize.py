"""The quantize modifier: frozen linear layers by torchao, the same parameter objects, refusals beforehand."""

import copy
import sys
from importlib.metadata import version
from types import SimpleNamespace

import pytest
import torch
from shim.bundles import write_bundle
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DeviceMesh, Replicate, distribute_tensor

import preheat
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, NothingMatchedError
from preheat.modifiers import QuantizationModifier
from preheat.pipeline import CheckpointPipeline
from preheat.shim.reports.tree import leaves, model_tree
from preheat.spelling import build, spell

NAMES = ["body.0.weight", "body.2.weight"]


def build_model():
    torch.manual_seed(4)
    body = torch.nn.Sequential(
        torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 64), torch.nn.LayerNorm(64)
    )
    return torch.nn.ModuleDict({"body": body, "head": torch.nn.Linear(64, 2)})


@pytest.fixture
def model():
    """With a frozen body and a head that learns."""
    model = build_model()
    model["body"].requires_grad_(False)
    return model


def quantize(model, *layers, **settings):
    pipeline = CheckpointPipeline([{"quantize": {"layers": layers or ["body"], **settings}}])
    return pipeline.execute_sync(CheckpointContext(model=model)).metadata["modifiers_applied"][0]


def kinds(model):
    return {name: type(parameter.data).__name__ for name, parameter in model.named_parameters()}


def output(model, batch):
    return model["head"](model["body"](batch))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("weights", "kind"), [("int8", "Int8Tensor"), ("float8", "Float8Tensor")])
def test_linear_layers_keep_their_place_and_nearly_their_values(model, dtype, weights, kind):
    model = model.to(dtype)
    batch, parameters = torch.randn(5, 64, dtype=dtype), list(model.parameters())
    before = output(model, batch)
    entry = quantize(model, weights=weights)
    assert [name for name, found in kinds(model).items() if found == kind] == NAMES
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert torch.allclose(before, output(model, batch), atol=0.1)
    assert entry["total_quantized_layers"] == 2
    assert entry["tensors"].keys() == set(NAMES)
    assert entry["bytes_before"] == 2 * 64 * 32 * dtype.itemsize
    assert entry["bytes_after"] < 0.6 * entry["bytes_before"]


def test_what_is_not_quantized_goes_on_learning_through_what_is(model):
    model["body"].insert(0, torch.nn.Linear(64, 64))
    quantize(model, "body.1", "body.3")
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = copy.deepcopy(model["body"][0].weight.detach())
    output(model, torch.randn(3, 64)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, model["body"][0].weight)


def test_a_state_dict_of_it_can_be_saved_and_loaded_again(model, tmp_path):
    batch = torch.randn(5, 64)
    quantize(model)
    expected = output(model, batch)
    torch.save(model.state_dict(), tmp_path / "quantized.pt")
    again = build_model().requires_grad_(False)
    quantize(again)
    again.load_state_dict(torch.load(tmp_path / "quantized.pt"))
    assert torch.equal(expected, output(again, batch))


def test_settings_of_the_whole_process_stay_as_they_are(model):
    before = torch.get_float32_matmul_precision()
    quantize(model)
    assert torch.get_float32_matmul_precision() == before


def test_some_layers_can_be_kept(model):
    assert list(quantize(model, "body", keep=["body.2"])["tensors"]) == NAMES[:1]


@pytest.mark.parametrize(
    ("layers", "settings", "words"),
    [
        (["body", "hed"], {}, r"no linear layer at 'hed' \(did you mean 'head'\?\)"),
        (["body.1"], {}, r"no linear layer at 'body.1' \(it is ReLU\)"),
        (["body"], {"keep": ["head"]}, "keep: no layer that would be quantized is at 'head'"),
        (["body"], {"keep": ["body.*"]}, "keep leaves none of 2 layers"),
    ],
)
def test_a_path_without_linear_layers_is_an_error(model, layers, settings, words):
    with pytest.raises(NothingMatchedError, match=words):
        quantize(model, *layers, **settings)
    assert set(kinds(model).values()) == {"Tensor"}


def refused(model, words, *layers, **settings):
    with pytest.raises(CheckpointIncompatibleError, match=words):
        quantize(model, *layers, **settings)
    assert {kind for kind in kinds(model).values() if kind.startswith(("Int", "Float"))} == set()


def test_what_would_be_trained_is_refused(model):
    refused(model, r"head\.weight would be trained.*put freezing before quantize", "body", "head")


def test_what_torchao_cannot_do_is_said_before_anything_is_changed(model):
    refused(model, r"body\.\d\.weight \(F32 \[\d+, \d+\] on cpu\) cannot be int4: ", weights="int4", group_size=32)


def test_a_tied_weight_is_refused(model):
    model["embed"] = torch.nn.Embedding(32, 64)
    model["body"][0].weight = model["embed"].weight.requires_grad_(False)
    refused(model, r"body\.0\.weight is one tensor under the names body\.0\.weight, embed\.weight")


def test_a_layer_that_is_used_twice_is_quantized_once(model):
    model["again"] = model["body"][0]
    assert quantize(model, "body.0", "again")["total_quantized_layers"] == 1


def test_weights_without_values_are_refused():
    with torch.device("meta"):
        model = build_model().requires_grad_(False)
    refused(model, r"body\.0\.weight is on the meta device")


@pytest.fixture
def group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_weights_that_are_spread_are_refused(model, group):
    spread = distribute_tensor(model["body"][0].weight.detach(), DeviceMesh("cpu", [0]), [Replicate()])
    model["body"][0].weight = torch.nn.Parameter(spread, requires_grad=False)
    refused(model, r"body\.0\.weight is spread over several processes\. Apply the checkpoint before")


@pytest.mark.parametrize("weights", ["int8", "float8"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_quantized_model_can_be_wrapped(group, kind, weights):
    model = torch.nn.Sequential(*build_model().children())
    model[0].requires_grad_(False)
    quantize(model, "0", weights=weights)
    if kind == "ddp":
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
    else:
        wrapped = fully_shard(model, ignored_params={p for p in model.parameters() if not p.requires_grad})
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    before = model[1].bias.detach().clone()
    wrapped(torch.randn(3, 64)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, model[1].bias)


def test_what_each_rank_initialised_for_itself_is_refused(model):
    context = CheckpointContext(model=model, ranks=SimpleNamespace(rank=0, world=2))
    context.update_metadata(initial_params={"body.0.weight": "not in the checkpoint"})
    with pytest.raises(
        CheckpointIncompatibleError, match=r"body\.0\.weight was not loaded, and its initial values diff"
    ):
        CheckpointPipeline([{"quantize": {"layers": ["body"]}}]).execute_sync(context)


def test_a_layer_is_quantized_once(model):
    quantize(model)
    with pytest.raises(CheckpointIncompatibleError, match=r"body\.0\.weight is quantized already \(Int8Tensor\)"):
        quantize(model)


def test_a_cast_after_it_is_refused(model):
    quantize(model)
    with pytest.raises(CheckpointIncompatibleError, match=r"is a Int8Tensor.*Put precision before quantize"):
        CheckpointPipeline([{"precision": {"dtype": "bfloat16"}}]).execute_sync(CheckpointContext(model=model))


def test_a_process_without_torchao_is_told_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(
        CheckpointConfigError, match=rf"needs the package torchao.*version for torch {version('torch')}"
    ):
        quantize(model)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"layers": "body"}, "give a list"),
        ({"layers": []}, "must not be empty"),
        ({"layers": ["body"], "weights": "int2"}, "'int2' is none of int8, int4, float8"),
        ({"layers": ["body"], "groupSize": 32}, "for int4 give 32, 64, 128 or 256"),
        ({"layers": ["body"], "weights": "int4", "groupSize": 48}, "for int4 give 32, 64, 128 or 256"),
    ],
)
def test_a_wrong_stage_says_what_is_wrong(stage, words):
    with pytest.raises(CheckpointConfigError, match=words):
        build({"quantize": stage})


def test_a_stage_is_written_down_as_it_was():
    stage = QuantizationModifier(["body"], "int4", 64, ["body.0"])
    assert build(spell(stage)) == stage


def test_the_report_tells_sizes_as_they_are_held(tmp_path, monkeypatch):
    stages = [{"weightsOnly": {}}, {"freezing": {"layers": ["body"]}}, {"quantize": {"layers": ["body"]}}]
    monkeypatch.setenv("PREHEAT_BUNDLE", str(write_bundle(tmp_path / "bundle", build_model().state_dict(), stages)))
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    report = preheat.apply(build_model())
    found = {leaf.name: leaf for leaf in leaves(model_tree(report.to_mapping()))}
    leaf = found["body.0.weight"]
    assert (leaf.state, leaf.reason, leaf.dtype, leaf.frozen) == ("cast", "F32 -> int8", "I8", True)
    assert leaf.size == 64 * 32 + 32 * 4 + 32  # values, scales and zero points
    assert "quantized 2 layers to int8 (body)" in report.line()
