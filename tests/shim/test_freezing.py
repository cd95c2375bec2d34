"""Freezing: exact paths, honest counts, and no silence when nothing matches."""

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
    assert freeze(model, "encoder", "decoder", strict=False)["unmatched"] == ["decoder"]


def test_not_strict_still_refuses_when_nothing_matches(model):
    with pytest.raises(NothingMatchedError):
        freeze(model, "decoder", "other", strict=False)


def test_a_single_string_is_refused():
    with pytest.raises(CheckpointConfigError, match=r"give a list, such as \[encoder\]"):
        FreezingModifier("encoder")
