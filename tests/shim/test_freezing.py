"""Freezing: exact paths, honest counts, and no silence when nothing matches."""

import copy
import pickle

import pytest
import torch

from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, NothingMatchedError
from preheat.modifiers import FreezingModifier
from preheat.pipeline import CheckpointPipeline


@pytest.fixture
def model():
    layer = lambda: torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())  # noqa: E731
    return torch.nn.ModuleDict({"encoder": layer(), "processor": torch.nn.ModuleList([layer(), layer()]),
                                "head": torch.nn.Linear(2, 1)})  # fmt: skip


def freeze(model, *layers, strict=True):
    stage = FreezingModifier(layers, strict)
    [entry] = CheckpointPipeline([stage]).execute_sync(CheckpointContext(model=model)).metadata["modifiers_applied"]
    return entry


def frozen(model):
    return [name for name, parameter in model.named_parameters() if not parameter.requires_grad]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["encoder"], ["encoder.0.weight", "encoder.0.bias"]),
        (["processor.1", "head.bias"], ["processor.1.0.weight", "processor.1.0.bias", "head.bias"]),
        (["processor.*"], [f"processor.{i}.0.{kind}" for i in (0, 1) for kind in ("weight", "bias")]),
        (["processor.*.0.bias"], ["processor.0.0.bias", "processor.1.0.bias"]),
        (["enc*"], ["encoder.0.weight", "encoder.0.bias"]),
    ],
)
def test_a_path_freezes_exactly_what_it_names(model, layers, expected):
    freeze(model, *layers)
    assert frozen(model) == expected


def test_counts_say_what_changed(model):
    model["encoder"][0].bias.requires_grad_(False)
    entry = freeze(model, "encoder", "processor")
    assert entry["total_frozen_params"] == 5
    assert entry["total_frozen_elements"] == 4 + 2 * 6
    assert entry["already_frozen_params"] == 1
    assert entry["frozen_modules"][0] == {
        "name": "encoder", "frozen_params": 1, "frozen_elements": 4, "already_frozen_params": 1,
    }  # fmt: skip


def test_tied_parameters_count_once(model):
    model["tied"] = model["head"]
    assert freeze(model, "tied")["total_frozen_params"] == 2


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("encodr", r"did you mean 'encoder'"),
        ("1", r"did you mean 'encoder.1'"),
        ("0.bias", r"'encoder.0.bias'"),
        ("encoder.1", r"it has no parameters"),
        ("*.weight", r"nothing to freeze at"),
    ],
)
def test_a_path_that_freezes_nothing_is_an_error_that_names_what_there_is(model, path, hint):
    if path == "*.weight":
        del model["head"]
    with pytest.raises(NothingMatchedError, match=hint):
        freeze(model, "encoder", path)
    assert frozen(model) == []


def test_not_strict_reports_what_did_not_match(model):
    entry = freeze(model, "encoder", "decoder", strict=False)
    assert entry["unmatched"] == ["decoder"]
    assert entry["says"] == "frozen 2 tensors (encoder), nothing at decoder"


def test_not_strict_still_refuses_when_nothing_matches(model):
    with pytest.raises(NothingMatchedError):
        freeze(model, "decoder", "other", strict=False)


def test_a_single_string_is_refused():
    with pytest.raises(CheckpointConfigError, match=r"give a list, such as \[encoder\]"):
        FreezingModifier("encoder")


def normalising():
    """A frozen encoder with running statistics and dropout, and a head that learns."""
    encoder = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
    return torch.nn.Sequential(encoder, torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))


def test_a_gradient_that_was_there_before_moves_nothing_any_more(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model["head"](torch.ones(1, 2)).backward()
    before = model["head"].weight.detach().clone()
    freeze(model, "head")
    optimizer.step()
    assert torch.equal(before, model["head"].weight)


def freeze_in_eval_mode(model, *layers, **settings):
    stage = FreezingModifier(layers, **(settings or {"eval_mode": True}))
    [entry] = CheckpointPipeline([stage]).execute_sync(CheckpointContext(model=model)).metadata["modifiers_applied"]
    return entry


@pytest.mark.parametrize("kept", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
                         ids=["itself", "copied", "pickled"])  # fmt: skip
def test_eval_mode_outlasts_train(kept):
    model = normalising()
    assert freeze_in_eval_mode(model, "0")["eval_modules"] == 4
    model = kept(model).train()
    before = copy.deepcopy(model.state_dict())
    batch = torch.randn(16, 4)
    first, second = model[0](batch), model[0](batch)
    model(batch)
    assert torch.equal(first, second)  # no dropout
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in after if name.startswith("0."))
    assert not torch.equal(before["1.running_mean"], after["1.running_mean"])
    assert model.training


def test_without_eval_mode_running_statistics_move():
    model = normalising()
    assert freeze(model, "0")["eval_modules"] == 0
    before = model[0][1].running_mean.clone()
    model.train()(torch.randn(16, 4))
    assert not torch.equal(before, model[0][1].running_mean)


def test_gradients_still_pass_through_what_is_frozen_in_eval_mode():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    freeze_in_eval_mode(model, "1")
    model.train()(torch.randn(8, 4)).sum().backward()
    assert model[0].weight.grad is not None
    assert model[1].weight.grad is None


def test_paths_that_overlap_keep_a_module_once():
    model = normalising()
    assert freeze_in_eval_mode(model, "0", "0.1")["eval_modules"] == 4
    assert len(model[0][1]._forward_pre_hooks) == 1


def test_a_frozen_parameter_does_not_put_its_module_in_eval_mode():
    model = normalising()
    assert freeze_in_eval_mode(model, "2.bias")["eval_modules"] == 0
    assert model[2].training


class RMSNorm2(torch.nn.Module):
    """A normalisation layer of a library's own."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))


class PreNorm(torch.nn.Module):
    """No normalisation layer: it holds one, and something that learns."""

    def __init__(self):
        super().__init__()
        self.norm, self.inner = RMSNorm2(), torch.nn.Dropout()


def test_normalisation_layers_alone_stay_in_eval_mode():
    model = normalising()
    model[0].append(PreNorm())
    assert freeze_in_eval_mode(model, "0", eval_norms=True)["eval_modules"] == 2
    model.train()
    for module in (model[0][1], model[0][3].norm):
        module.register_forward_hook(lambda module, inputs, output: seen.append(module.training))
    seen = []
    model[0][:3](torch.randn(8, 4))
    assert seen == [False]
    assert model[0][2].training
    assert model[0][3].training


def test_normalisation_layers_that_are_not_there_are_an_error_before_anything_is_frozen(model):
    with pytest.raises(NothingMatchedError, match=r"no normalisation layer in encoder, head. Leave evalNorms out"):
        freeze_in_eval_mode(model, "encoder", "head", eval_norms=True)
    assert frozen(model) == []
