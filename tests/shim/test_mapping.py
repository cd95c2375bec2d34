"""What every strategy does with names: some of a checkpoint's tensors, under other names, into some of a model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

import preheat
from preheat import CheckpointContext, CheckpointPipeline
from preheat.bundle.data import open_bundle
from preheat.bundle.store import Store
from preheat.errors import (
    CheckpointConfigError,
    CheckpointIncompatibleError,
    NothingMatchedError,
)
from preheat.prepare import prepare
from preheat.shim.environment import bundle_folder
from preheat.spec import parse

EMA = {"weightsOnly": {"ema": "auto"}}
FRESH = ("weightsOnly", "transferLearning", "coldStart")


class Net(torch.nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6))
        self.head = torch.nn.Linear(6, classes)


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randint(1, 90, tensor.shape))
    return model


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    return dict(randomised(Net()).state_dict())


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., CheckpointContext]:
    """A checkpoint that was loaded in one process."""

    def load(saved: Any, model: torch.nn.Module, *stages: dict[str, Any]) -> CheckpointContext:
        torch.save(saved, tmp_path / "saved.ckpt")
        source = {"local": {"path": str(tmp_path / "saved.ckpt")}}
        return CheckpointPipeline([source, *stages]).execute_sync(CheckpointContext(model=model))

    return load


@pytest.fixture
def applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The report of a checkpoint that a loader fetched and `preheat.apply` loaded."""

    def apply(saved: Any, model: torch.nn.Module, *stages: dict[str, Any]) -> Any:
        torch.save(saved, tmp_path / "saved.ckpt")
        spec = parse({"stages": [{"local": {"path": str(tmp_path / "saved.ckpt")}}, *stages]})
        folder = prepare(spec, Store(tmp_path / "volume"), "test").folder
        monkeypatch.setenv("PREHEAT_BUNDLE", str(folder))
        return preheat.apply(model)

    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    return apply


def same(model: torch.nn.Module, wanted: Mapping[str, torch.Tensor], *names: str) -> bool:
    state = model.state_dict()
    return all(torch.equal(state[name], wanted[name]) for name in names or wanted)


def foreign(trained: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights as another program calls them, with some that only it has."""
    names = {name: name.replace("encoder.", "backbone.") for name in trained}
    names["head.bias"] = "out_b"
    return {
        **{f"module.{new}": trained[old] for old, new in names.items()},
        "module.loss.weight": torch.ones(2),
        "module.loss.bias": torch.ones(1),
    }


MAPPING = {
    "exclude": [r"^module\.loss"],
    "stripPrefix": ["module."],
    "rename": [
        {"pattern": "backbone.", "replacement": "encoder.", "match": "substring"},
        {"pattern": "out_b", "replacement": "head.bias", "match": "exact"},
        {"pattern": r"^(encoder|head)\.", "replacement": r"\1."},
    ],
}


@pytest.mark.parametrize("strategy", FRESH)
def test_every_strategy_maps_the_same_names(strategy, trained, loaded):
    model = Net()
    done = loaded(foreign(trained), model, {strategy: {**MAPPING, "strict": True}})
    assert same(model, trained)
    assert done.metadata["transferred_params"] == list(trained)
    reason = r"excluded by '^module\.loss'"
    assert done.metadata["skipped_params"] == {"module.loss.weight": reason, "module.loss.bias": reason}
    assert done.metadata["skipped_sizes"]["module.loss.weight"]["shape"] == [2]
    assert done.metadata["loading_notes"] == ["9 names changed, such as module.backbone.0.weight to encoder.0.weight"]


def test_a_bundle_is_mapped_as_its_source_is(trained, applied):
    model = Net()
    report = applied(foreign(trained), model, {"weightsOnly": MAPPING})
    assert same(model, trained)
    assert report.skipped == dict.fromkeys(["module.loss.weight", "module.loss.bias"], r"excluded by '^module\.loss'")
    assert report.notes[0].startswith("9 names changed, such as module.backbone.")


def test_a_strategy_maps_what_a_conversion_left(trained, loaded):
    model = Net()
    convert = {"convert": {"stripPrefix": ["module."], "exclude": ["loss"]}}
    rest = {
        "rename": [
            {"pattern": "^backbone", "replacement": "encoder"},
            {"pattern": "^out_b$", "replacement": "head.bias"},
        ]
    }
    loaded(foreign(trained), model, convert, {"weightsOnly": rest})
    assert same(model, trained)


def test_a_mapping_of_the_users_own_is_mapped_and_stays_as_it_is(trained):
    data = {"state_dict": {f"net.{name}": tensor for name, tensor in trained.items()}, "epoch": 1}
    names, model = list(data["state_dict"]), Net()
    stage = {"coldStart": {"stripPrefix": ["net."]}}
    CheckpointPipeline([stage]).execute_sync(CheckpointContext(model=model, checkpoint_data=data))
    assert same(model, trained)
    assert list(data["state_dict"]) == names


def test_a_prefix_is_put_before_what_a_module_of_a_wrapper_wants(trained, loaded):
    wrapper = torch.nn.ModuleDict({"net": Net()})
    loaded(trained, wrapper, {"weightsOnly": {"addPrefix": "net."}})
    assert same(wrapper["net"], trained)


def test_what_is_not_selected_says_so(trained, loaded):
    model = Net()
    done = loaded(trained, model, {"transferLearning": {"select": ["^head"]}})
    assert done.metadata["transferred_params"] == ["head.weight", "head.bias"]
    assert set(done.metadata["skipped_params"].values()) == {"not selected"}


def test_strict_holds_for_what_is_not_left_out(trained, loaded):
    with pytest.raises(CheckpointIncompatibleError, match=r"2 of the model are not in the checkpoint: head\.weight"):
        loaded(trained, Net(), {"weightsOnly": {"exclude": ["^head"]}})
    with pytest.raises(CheckpointIncompatibleError, match="1 of the checkpoint are not in the model: other"):
        loaded({**trained, "other": torch.ones(1)}, Net(), {"weightsOnly": {"keep": ["^head"]}})


@pytest.mark.parametrize("strategy", FRESH)
def test_what_is_kept_keeps_its_initial_value_whatever_its_shape_is_there(strategy, trained, loaded):
    model = Net(classes=10)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = loaded(trained, model, {strategy: {"keep": [r"^head\.(weight|bias)$"], "strict": True}})
    assert same(model, initial, "head.weight", "head.bias")
    assert same(model, trained, "encoder.0.weight", "encoder.1.running_mean")
    reason = r"kept by '^head\.(weight|bias)$'"
    assert done.metadata["initial_params"] == {"head.weight": reason, "head.bias": reason}
    assert done.metadata["skipped_params"] == done.metadata["initial_params"]


def test_what_is_kept_need_not_be_in_the_checkpoint(trained, loaded):
    without = {name: tensor for name, tensor in trained.items() if not name.startswith("head")}
    done = loaded(without, Net(), {"weightsOnly": {"keep": ["^head"]}})
    assert list(done.metadata["initial_params"]) == ["head.weight", "head.bias"]


def test_buffers_keep_their_initial_value_when_asked_for(trained, loaded, applied):
    for load in (loaded, applied):
        model = Net()
        load(trained, model, {"weightsOnly": {"buffers": False}})
        assert torch.equal(model.encoder[1].running_mean, torch.zeros(6))
        assert same(model, trained, *(name for name, _ in model.named_parameters()))
    done = loaded({n: t for n, t in trained.items() if "running" not in n}, Net(), {"weightsOnly": {"buffers": False}})
    assert set(done.metadata["initial_params"].values()) == {"a buffer"}
    assert done.metadata["skipped_params"] == {"encoder.1.num_batches_tracked": "a buffer"}


def test_a_model_without_buffers_has_none_to_keep(loaded):
    model = torch.nn.Linear(2, 2)
    done = loaded(torch.nn.Linear(2, 2).state_dict(), model, {"weightsOnly": {"buffers": False}})
    assert done.metadata["initial_params"] == {}


def test_reset_layers_and_kept_tensors_go_together(trained, loaded):
    done = loaded(trained, Net(), {"coldStart": {"resetLayers": ["head"], "keep": ["^head", "running"]}})
    assert done.metadata["initial_params"] == {
        "encoder.1.running_mean": "kept by 'running'", "encoder.1.running_var": "kept by 'running'",
        "head.weight": "reset", "head.bias": "reset",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"exclude": ["^encodr"]}, NothingMatchedError, r"exclude '\^encodr' matches .*did you mean 'encoder'"),
        ({"select": ["^had"]}, NothingMatchedError, r"select '\^had' matches none .*did you mean 'head'"),
        ({"stripPrefix": ["module."]}, NothingMatchedError, r"stripPrefix 'module\.' matches none of 9 tensors"),
        ({"rename": [{"pattern": "hed", "replacement": "", "match": "exact"}]}, NothingMatchedError, "rename .hed"),
        ({"keep": ["^tail"]}, NothingMatchedError, r"keep '\^tail' matches none of 9 tensors of the model"),
        ({"keep": ["."]}, NothingMatchedError, r"every tensor of the model is left out \(kept by '\.'\)"),
        ({"exclude": ["."]}, NothingMatchedError, "leave none of the 9 tensors"),
        (
            {"rename": [{"pattern": "head.weight", "replacement": "head.bias", "match": "exact"}]},
            CheckpointIncompatibleError,
            r"'head\.weight' and 'head\.bias' both become 'head\.bias'",
        ),
    ],
)  # fmt: skip
def test_what_matches_nothing_or_collides_is_refused_untouched(fields, error, words, trained, loaded):
    model = Net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(error, match=words) as raised:
        loaded(trained, model, {"transferLearning": fields})
    assert type(raised.value) is error
    assert same(model, before)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"keep": ["head("]}, r"WeightsOnlyLoader\.keep: 'head\(' is not a regular expression"),
        ({"exclude": "head"}, r"WeightsOnlyLoader\.exclude: give a list, such as \[head\]"),
        (
            {"rename": [{"pattern": "a", "replacement": "b", "match": "glob"}]},
            "'glob' is none of regex, substring, exact",
        ),
        ({"ema": ""}, "ema: must not be empty"),
    ],
)
def test_what_cannot_be_applied_is_refused_when_it_is_built(fields, words):
    with pytest.raises(CheckpointConfigError, match=words):
        CheckpointPipeline([{"weightsOnly": fields}])


def test_a_kept_tensor_that_is_tied_to_a_loaded_one_is_refused(loaded):
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(5, 4), "head": torch.nn.Linear(4, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    with pytest.raises(
        CheckpointIncompatibleError, match=r"initial value \(kept by '\^head'\): it is tied to 'embed\.weight'"
    ):
        loaded(model.state_dict(), model, {"weightsOnly": {"keep": ["^head"]}})


def with_average(trained: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    average = {f"module.{name}": tensor + 1 for name, tensor in trained.items()}
    return {"state_dict": trained, "state_dict_ema": {**average, "n_averaged": torch.tensor(3)}, "epoch": 2}


def test_averaged_weights_take_the_place_of_the_raw_ones(trained, loaded, applied):
    average = {name: tensor + 1 for name, tensor in trained.items()}
    said = "weights as ema asks: state_dict_ema"
    for strategy in FRESH:
        model = Net()
        done = loaded(with_average(trained), model, {strategy: {"ema": "auto"}})
        assert same(model, average)
        assert done.metadata["loading_notes"] == [said]
    model = Net()
    report = applied(with_average(trained), model, {"weightsOnly": {"ema": "state_dict_ema"}})
    assert same(model, average)
    assert report.notes == (said,)


def test_averages_are_converted_and_mapped_as_weights_are(trained, loaded, applied):
    saved = with_average({f"net.{name}": tensor for name, tensor in trained.items()})
    for load in (loaded, applied):
        model = Net()
        load(saved, model, {"convert": {"stripPrefix": ["net."], "dtype": "bfloat16"}}, EMA)
        assert same(model, {name: tensor + 1 for name, tensor in trained.items()})


def test_the_averages_of_a_mapping_of_the_users_own(trained):
    model = Net()
    CheckpointPipeline([EMA]).execute_sync(CheckpointContext(model=model, checkpoint_data=with_average(trained)))
    assert same(model, {name: tensor + 1 for name, tensor in trained.items()})
    with pytest.raises(NothingMatchedError, match="it holds no weights but the raw ones"):
        CheckpointPipeline([EMA]).execute_sync(CheckpointContext(model=model, checkpoint_data={"state_dict": trained}))


def test_no_averages_is_an_error_before_anything_travels(trained, loaded, applied, tmp_path):
    for load in (loaded, applied):
        with pytest.raises(NothingMatchedError, match="no averaged weights; beside the raw weights it holds teacher"):
            load({"state_dict": trained, "teacher": trained}, Net(), EMA)
    assert not list(tmp_path.glob("volume/bundles/*"))


def test_a_bundle_of_raw_weights_holds_no_averages(trained, applied):
    applied(with_average(trained), Net(), {"weightsOnly": {}})
    data = open_bundle(bundle_folder())
    context, pipeline = CheckpointContext(model=Net(), checkpoint_data=data), CheckpointPipeline([EMA])
    with closing(data), pytest.raises(NothingMatchedError, match="was made of the raw weights"):
        pipeline.execute_sync(context)


def test_a_warm_start_refuses_averages():
    with pytest.raises(CheckpointConfigError, match="goes on from its raw weights"):
        CheckpointPipeline([{"warmStart": {"ema": "auto"}}])
