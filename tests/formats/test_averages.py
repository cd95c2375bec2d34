"""Averaged weights beside the raw ones: found where training programs keep them, and taken in the raw ones' place."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from preheat.blob import Patience
from preheat.checks import Findings
from preheat.errors import CheckpointError, CheckpointIncompatibleError, NothingMatchedError
from preheat.formats import read_index
from preheat.formats.averages import averages_in
from preheat.formats.layouts import averaged
from preheat.index import Index
from preheat.plan import make_plan
from preheat.sources.local import LocalSource
from preheat.spec import PipelineSpec
from preheat.strategies.weights_only import WeightsOnlyLoader


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(2, 3)
        self.norm = torch.nn.BatchNorm1d(3)


def average_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value + 1 for name, value in model.state_dict().items() if value.dim()}


def averaged_model(model: torch.nn.Module) -> AveragedModel:
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    average.update_parameters(model)
    return average


def parameters_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach() + 1 for name, value in model.named_parameters()}


def index_of(path: Path) -> Index:
    blob = LocalSource(str(path)).open(Patience())
    try:
        return read_index(blob)
    finally:
        blob.close()


def index_of_saved(checkpoint: Any, folder: Path) -> Index:
    torch.save(checkpoint, folder / "saved.ckpt")
    return index_of(folder / "saved.ckpt")


def keys_for(model: torch.nn.Module) -> dict[str, tuple[dict[str, Any], str]]:
    """What programs save beside the weights, and the path of the averages in it."""
    average = average_of(model)
    whole = copy.deepcopy(model)
    return {
        "timm": ({"state_dict_ema": average, "epoch": 3}, "state_dict_ema"),
        "timm's wrapper": ({"model_ema": {f"module.{n}": v for n, v in average.items()}}, "model_ema"),
        "AveragedModel": ({"averaged": averaged_model(model).state_dict()}, "averaged"),
        "in a callback": ({"callbacks": {"EMACallback{'decay': 0.9}": {"weights": average}}},
                          "callbacks.EMACallback{'decay': 0.9}.weights"),
        "shadow": ({"ema": {"decay": 0.9, "updates": torch.tensor(4), "shadow": parameters_of(model)}}, "ema.shadow"),
        "lucidrains": ({"ema": {"initted": torch.tensor(True), "step": torch.tensor(3),
                                **{f"online_model.{n}": v for n, v in model.state_dict().items()},
                                **{f"ema_model.{n}": v for n, v in average.items()}}}, "ema"),
        "a whole module": ({"ema": whole, "updates": 12}, "ema"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", keys_for(Net()))
def test_averages_are_found_where_programs_keep_them(kind, tmp_path):
    model = Net()
    beside, path = keys_for(model)[kind]
    index = index_of_saved({"state_dict": model.state_dict(), "optimizer": optimizer_of(model), **beside}, tmp_path)
    found = averaged(index, "auto")
    assert found.average.startswith(path)
    assert list(found.tensors) == list(model.state_dict())
    moved = {name for name in found.tensors if found.tensors[name] != index.tensors[name]}
    assert moved >= {name for name, _ in model.named_parameters()}
    assert averaged(index, path).tensors == found.tensors


def optimizer_of(model: torch.nn.Module) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(model.named_parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


def test_what_has_no_average_is_taken_as_it_is_and_named(tmp_path):
    model = Net()
    index = index_of_saved({"model": model.state_dict(), "ema": parameters_of(model)}, tmp_path)
    found = averaged(index, "auto")
    buffers = [name for name, _ in model.named_buffers()]
    assert [name for name in found.tensors if found.tensors[name] == index.tensors[name]] == buffers
    assert found.average == f"ema; without an average, and as they were: {', '.join(buffers)}"


def test_averages_under_other_names_are_not_mixed_with_the_raw_ones(tmp_path):
    model = Net()
    renamed = {f"net.{name}": value for name, value in model.state_dict().items()}
    found = averaged(index_of_saved({"model": model.state_dict(), "ema": renamed}, tmp_path), "auto")
    assert list(found.tensors) == list(renamed)


def test_the_raw_weights_stay_where_they_are_and_count_as_left(tmp_path):
    model = Net()
    torch.save({"state_dict": model.state_dict(), "model_ema": average_of(model), "epoch": 3}, tmp_path / "a.ckpt")
    source = LocalSource(str(tmp_path / "a.ckpt"))
    index, ema = index_of(tmp_path / "a.ckpt"), WeightsOnlyLoader(ema="auto")
    raw, plan = (make_plan(index, PipelineSpec((source, s)), Findings()) for s in (WeightsOnlyLoader(), ema))
    assert plan.selected_bytes == raw.selected_bytes
    assert (raw.left_tensors, plan.left_tensors) == (6, 6)  # a counter has no average
    assert plan.excluded_tensors == 0
    assert "model_ema" not in plan.index.state
    assert set(plan.index.state) == {"epoch", "state_dict"}
    assert not {(m.start, m.stop) for m in raw.moves if m.tensor.shape} & {(m.start, m.stop) for m in plan.moves}


def test_no_averages_is_an_error_that_lists_what_there_is(tmp_path):
    model = Net()
    index = index_of_saved({"model": model.state_dict(), "discriminator": average_of(model)}, tmp_path)
    with pytest.raises(NothingMatchedError, match="no averaged weights; beside the raw weights it holds discriminator"):
        averaged(index, "auto")
    with pytest.raises(NothingMatchedError, match=r"no weights under 'ema' ?.*; beside .* discriminator"):
        averaged(index, "ema")
    assert averaged(index, "discriminator").average.startswith("discriminator")
    with pytest.raises(NothingMatchedError, match="holds no weights but the raw ones"):
        averaged(index_of_saved({"model": model.state_dict(), "optimizer": optimizer_of(model)}, tmp_path), "auto")


@pytest.mark.parametrize(
    ("holder", "part", "spelled"),
    [
        ("model.", "ema_model", "ema_model.{}"),
        ("net.", "ema", "ema.module.{}"),
        ("", "averaged", "averaged.{}"),
        ("model.", "model_ema", "model_ema.{flat}"),
    ],
)
def test_averages_that_a_module_keeps_in_itself_are_found(holder, part, spelled, tmp_path):
    model = Net()
    raw = {f"{holder}{name}": value for name, value in model.state_dict().items()}
    inside = {spelled.format(n, flat=n.replace(".", "")): value for n, value in average_of(model).items()}
    saved = {**raw, "loss.weight": torch.ones(1), **inside, f"{part}.decay": torch.tensor(0.9)}
    index = index_of_saved({"state_dict": saved}, tmp_path)
    found = averaged(index, "auto")
    counter = f"{holder}norm.num_batches_tracked"
    assert found.average == f"{part}; without an average, and as they were: {counter}, loss.weight"
    for name in average_of(model):
        average = spelled.format(name, flat=name.replace(".", ""))
        assert found.tensors[f"{holder}{name}"] == index.tensors[average] == found.tensors[average]
    assert found.tensors.keys() == index.tensors.keys()
    assert averaged(index, part).tensors == found.tensors


def test_of_several_averages_one_has_to_be_named(tmp_path):
    model = Net()
    saved = {"model": model.state_dict(), "ema": {"fast": average_of(model), "slow": average_of(model)}}
    index = index_of_saved(saved, tmp_path)
    with pytest.raises(CheckpointIncompatibleError, match=r"in 2 places: ema\.fast, ema\.slow\. Name the one"):
        averaged(index, "auto")
    assert averaged(index, "ema.slow").average.startswith("ema.slow")


def test_averages_without_names_are_none(tmp_path):
    model = Net()
    saved = {"model": model.state_dict(), "ema": {"shadow_params": list(parameters_of(model).values())}}
    with pytest.raises(NothingMatchedError, match="no averaged weights"):
        averaged(index_of_saved(saved, tmp_path), "auto")


def test_what_is_not_all_wrapped_keeps_its_names(tmp_path):
    model = Net()
    odd = {"module.weight": torch.ones(2), "weight": torch.zeros(2), "n_averaged": torch.tensor(2)}
    found = averaged(index_of_saved({"model": model.state_dict(), "ema": odd}, tmp_path), "auto")
    assert set(found.tensors) == {"module.weight", "weight"}
    with pytest.raises(CheckpointError, match="no tensors under"):
        index_of_saved({"ema": {"n_averaged": torch.ones(2)}}, tmp_path)


def test_a_checkpoint_of_averages_alone_gives_those(tmp_path):
    model = Net()
    index = index_of_saved({"state_dict_ema": average_of(model), "epoch": 4}, tmp_path)
    assert index.layout == "state_dict_ema"
    assert list(index.tensors) == list(average_of(model))
    assert index.state == {"epoch": 4}
    assert averaged(index, "auto").average == "state_dict_ema"
    with pytest.raises(CheckpointError, match="no tensors under state_dict"):
        index_of_saved({"ema": average_of(model), "swa": average_of(model)}, tmp_path)


def test_lightnings_own_averaging_has_them_in_the_state_dict_already(tmp_path):
    model = Net()
    saved = {
        "pytorch-lightning_version": "2.6.0",
        "state_dict": average_of(model),
        "current_model_state": model.state_dict(),
        "averaging_state": {"n_averaged": torch.tensor(3)},
    }
    index = index_of_saved(saved, tmp_path)
    found = averaged(index, "auto")
    assert found.tensors == index.tensors
    assert found.average
    assert averaged(index, "current_model_state").tensors != index.tensors


def test_averages_in_a_sharded_checkpoint_are_found(tmp_path):
    model = Net()
    saved = {"model": model.state_dict(), "ema": average_of(model)}
    save(saved, storage_writer=FileSystemWriter(tmp_path / "dcp"), no_dist=True)
    index = index_of(tmp_path / "dcp")
    found = averaged(index, "auto")
    assert found.average.startswith("ema")
    assert found.tensors.keys() == index.tensors.keys()
    assert found.tensors["body.weight"] != index.tensors["body.weight"]


@pytest.mark.parametrize(
    "path", ["ema", "model_ema", "EMACallback", "ModelEma", "swa_state", "averaged_model", "x.shadow"]
)
def test_a_name_says_that_it_is_an_average(path):
    assert averages_in([path]) == [path]


@pytest.mark.parametrize("path", ["schema", "cinema.weights", "discriminator", "schemas", "model", "teacher"])
def test_a_name_that_says_nothing_of_averages_is_none(path):
    assert averages_in([path]) == []
