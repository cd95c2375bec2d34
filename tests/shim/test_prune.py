"""The prune modifier: zeros that are counted, the same choice everywhere, and refusals before anything is changed."""

import copy

import pytest
import torch
from shim.bundles import write_bundle
from torch.nn.utils.parametrizations import weight_norm

import preheat
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, NothingMatchedError
from preheat.modifiers import PruningModifier
from preheat.pipeline import CheckpointPipeline
from preheat.shim.reports.tree import leaves, model_tree
from preheat.spelling import build, spell

METHODS = ["l1", "random", "structured"]


def build_model():
    torch.manual_seed(6)
    conv = torch.nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    body = torch.nn.Sequential(conv, torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.Linear(8, 10))
    return torch.nn.ModuleDict({"body": body, "head": torch.nn.Linear(10, 2)})


@pytest.fixture
def model():
    return build_model()


def prune(model, *layers, **settings):
    stage = {"prune": {"layers": layers or ["body"], "amount": 0.5, **settings}}
    [entry] = CheckpointPipeline([stage]).execute_sync(CheckpointContext(model=model)).metadata["modifiers_applied"]
    return entry


def step(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model["head"](model["body"](torch.randn(4, 4, 3, 3))).sum().backward()
    optimizer.step()
    model["body"](torch.randn(4, 4, 3, 3))


def zeros(model, *layers):
    return [(model["body"][layer].weight == 0).sum().item() for layer in layers or (0, 3)]


@pytest.mark.parametrize("permanent", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_the_share_of_zeros_is_what_is_asked_for_and_what_is_reported(model, method, permanent):
    parameters = list(model.parameters())
    entry = prune(model, method=method, permanent=permanent)
    assert zeros(model) == [8 * 4 * 9 // 2, 8 * 10 // 2]
    assert entry["sparsity"] == pytest.approx(0.5)
    assert (entry["total_zero_elements"], entry["total_elements"]) == (144 + 40, 288 + 80)
    assert {id(parameter) for parameter in parameters} == {id(parameter) for parameter in model.parameters()}
    assert not (model["head"].weight == 0).any()


def test_the_smallest_go(model):
    before = model["body"][3].weight.detach().abs().flatten().sort().values
    prune(model, "body.3", amount=0.25, permanent=True)
    assert torch.equal(model["body"][3].weight.detach().abs().flatten().sort().values[20:], before[20:])


def test_whole_channels_go(model):
    prune(model, "body.0", method="structured", permanent=True)
    assert [bool((channel == 0).all()) for channel in model["body"][0].weight].count(True) == 4


def test_masks_keep_zeros_while_training_goes_on(model):
    prune(model)
    before = model["head"].weight.detach().clone()
    step(model)
    assert zeros(model) == [144, 40]
    assert not torch.equal(before, model["head"].weight)


def test_permanent_zeros_are_only_where_training_begins(model):
    prune(model, permanent=True)
    assert set(model.state_dict()) == set(build_model().state_dict())
    step(model)
    assert zeros(model, 3) < [40]


def test_a_model_with_masks_can_be_copied_before_it_trains(model):
    prune(model)
    step(copy.deepcopy(model))


def test_random_choices_depend_on_the_seed_alone(model):
    chosen = []
    for number, seed in enumerate((1, 1, 2)):
        other = build_model()
        torch.manual_seed(number)
        state = torch.get_rng_state()
        prune(other, method="random", seed=seed, permanent=True)
        assert torch.equal(state, torch.get_rng_state())
        chosen.append(other["body"][3].weight == 0)
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])


def test_frozen_weights_stay_frozen(model):
    model["body"].requires_grad_(False)
    prune(model)
    assert not any(parameter.requires_grad for parameter in model["body"].parameters())


def test_attention_has_no_mask_where_nothing_would_apply_it():
    model = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    wrapped = torch.nn.ModuleDict({"block": model})
    entry = prune(wrapped, "block")
    assert list(entry["tensors"]) == ["block.linear1.weight_orig", "block.linear2.weight_orig"]
    for _ in range(2):
        model(torch.randn(2, 3, 8)).sum().backward()


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (["body", "hed"], r"with a plain weight at 'hed' \(did you mean 'head'\?\)"),
        (["body.1"], r"at 'body.1' \(it is BatchNorm2d\)"),
        (["normed"], r"at 'normed' \(it is "),
    ],
)
def test_a_path_without_such_layers_is_an_error(model, layers, words):
    model["normed"] = weight_norm(torch.nn.Linear(2, 2))
    with pytest.raises(NothingMatchedError, match=words):
        prune(model, *layers)
    assert zeros(model) == [0, 0]


def refused(model, error, words, *layers, **settings):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=words):
        prune(model, *layers, **settings)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in after if not after[name].is_meta)


def test_an_amount_that_rounds_to_nothing_or_to_all_is_refused(model):
    refused(model, NothingMatchedError, r"0\.01 rounds to nothing in head", "head", amount=0.01)
    refused(model, CheckpointIncompatibleError, r"0\.99 leaves nothing of head", "body", "head", amount=0.99)
    refused(model, CheckpointIncompatibleError, r"0\.9 leaves nothing of head", "head", amount=0.9, method="structured")


def test_a_tied_weight_is_refused(model):
    model["tied"] = torch.nn.Linear(10, 2)
    model["tied"].weight = model["head"].weight
    refused(model, CheckpointIncompatibleError, r"head\.weight is one tensor under the names", "head")


def test_weights_without_values_are_refused():
    with torch.device("meta"):
        model = build_model()
    refused(model, CheckpointIncompatibleError, r"body\.0\.weight is on the meta device")


def test_a_layer_is_pruned_by_masks_once(model):
    prune(model)
    refused(model, NothingMatchedError, "plain weight at 'body'")


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"layers": "body", "amount": 0.5}, "give a list"),
        ({"layers": ["body"]}, "amount"),
        ({"layers": ["body"], "amount": 0}, "below the minimum"),
        ({"layers": ["body"], "amount": 1.0}, "above the maximum"),
        ({"layers": ["body"], "amount": 0.5, "method": "l2"}, "'l2' is none of l1, random, structured"),
    ],
)
def test_a_wrong_stage_says_what_is_wrong(stage, words):
    with pytest.raises(CheckpointConfigError, match=words):
        build({"prune": stage})


def test_a_stage_is_written_down_as_it_was():
    stage = PruningModifier(["body"], 0.25, "random", permanent=True, seed=3)
    assert build(spell(stage)) == stage


def test_the_report_says_what_became_of_each_weight(tmp_path, monkeypatch):
    stages = [{"weightsOnly": {}}, {"prune": {"layers": ["body"], "amount": 0.25}}]
    monkeypatch.setenv("PREHEAT_BUNDLE", str(write_bundle(tmp_path / "bundle", build_model().state_dict(), stages)))
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    report = preheat.apply(build_model())
    found = {leaf.name: (leaf.state, leaf.reason) for leaf in leaves(model_tree(report.to_mapping()))}
    assert found["body.0.weight_orig"] == ("pruned", "25.0% zero")
    assert found["body.0.weight_mask"] == ("added", "by the pipeline")
    assert found["body.0.bias"] == ("loaded", "")
    assert "pruned 2 layers (body), 25.0% of their weights zero by masks" in report.line()
