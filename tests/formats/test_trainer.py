"""Folders of Transformers' Trainer and of Accelerate: the weights, and all that a training needs to go on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file

from preheat.blob import Patience
from preheat.bundle.data import open_bundle
from preheat.bundle.store import Store
from preheat.errors import NothingMatchedError
from preheat.formats import read_index
from preheat.formats.inert.values import Node
from preheat.index import Index
from preheat.prepare import prepare
from preheat.sources.local import LocalSource
from preheat.spec import parse

WEIGHTS = {"a": torch.randn(3, 2), "b": torch.randn(4)}


def random_states() -> dict[str, Any]:
    return {"python": random.getstate(), "numpy": numpy.random.get_state(), "cpu": torch.get_rng_state()}


def save_trainer(folder: Path, processes: int = 1, shards: bool = False) -> Path:
    """As the Trainer saves a model of two tensors after three steps."""
    folder.mkdir()
    if shards:
        for name, tensor in WEIGHTS.items():
            save_file({name: tensor}, folder / f"model-{name}.safetensors")
        weight_map = {name: f"model-{name}.safetensors" for name in WEIGHTS}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    else:
        save_file(WEIGHTS, folder / "model.safetensors")
    parameters = [torch.nn.Parameter(tensor.clone()) for tensor in WEIGHTS.values()]
    optimizer = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0).state_dict(), folder / "scheduler.pt")
    torch.save({"scale": 2.0}, folder / "scaler.pt")
    names = ["rng_state.pth"] if processes == 1 else [f"rng_state_{number}.pth" for number in range(processes)]
    for name in names:
        torch.save(random_states(), folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 3, "epoch": 0.5, "log_history": []}))
    torch.save(Path("of the arguments"), folder / "training_args.bin")
    return folder


def index_of(path: Path) -> Index:
    blob = LocalSource(str(path)).open(Patience())
    try:
        return read_index(blob)
    finally:
        blob.close()


def bundle_of(path: Path, volume: Path, strategy: str = "warmStart") -> Path:
    stages = [{"local": {"path": str(path)}}, {strategy: {}}]
    return prepare(parse({"stages": stages}), Store(volume), "test").folder


@pytest.mark.parametrize("shards", [False, True])
def test_what_a_trainer_saved_beside_the_weights_is_in_the_bundle(tmp_path: Path, shards: bool) -> None:
    folder = save_trainer(tmp_path / "checkpoint-3", shards=shards)
    data = open_bundle(bundle_of(folder, tmp_path / "volume"))
    assert all(torch.equal(data.state_dict[name], tensor) for name, tensor in WEIGHTS.items())
    training = data.training_state()
    assert training is not None
    state = training.read(training.tree)
    saved = torch.load(folder / "optimizer.pt", weights_only=True)
    assert state["optimizer"]["param_groups"] == saved["param_groups"]
    assert torch.equal(state["optimizer"]["state"][1]["exp_avg"], saved["state"][1]["exp_avg"])
    assert state["lr_scheduler"] == torch.load(folder / "scheduler.pt", weights_only=True)
    assert (state["scaler"], state["global_step"]) == ({"scale": 2.0}, 3)
    assert state["trainer_state"] == json.loads((folder / "trainer_state.json").read_text())
    training.close()
    data.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_random_states_come_back_as_they_were(tmp_path: Path, processes: int) -> None:
    folder = save_trainer(tmp_path / "checkpoint-3", processes)
    training = open_bundle(bundle_of(folder, tmp_path / "volume")).training_state()
    assert training is not None
    states = training.read(training.tree["random_states"])
    assert len(states) == processes
    expected = random_states()
    assert states[-1]["python"] == expected["python"]
    assert torch.equal(states[-1]["cpu"], expected["cpu"])
    kind, numbers, *rest = states[-1]["numpy"]
    assert [kind, *rest] == [expected["numpy"][0], *expected["numpy"][2:]]
    assert numbers == expected["numpy"][1].tolist()


def test_a_folder_is_found_alike_where_files_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_trainer(tmp_path / "checkpoint-3", processes=3)
    listed = index_of(folder)
    monkeypatch.setattr("preheat.file_blob.LocalFolder.names", lambda self: None)
    unlisted = index_of(folder)
    assert unlisted.state.keys() == listed.state.keys()
    assert len(unlisted.state["random_states"]) == 3


def test_who_names_the_weights_gets_these_alone(tmp_path: Path) -> None:
    folder = save_trainer(tmp_path / "checkpoint-3")
    index = index_of(folder / "model.safetensors")
    assert (index.layout, index.state) == ("safetensors", {})


def test_a_file_that_cannot_be_read_stops_a_warm_start_alone(tmp_path: Path) -> None:
    folder = save_trainer(tmp_path / "checkpoint-3")
    (folder / "optimizer.pt").write_bytes(b"damaged")
    bundle_of(folder, tmp_path / "volume", "weightsOnly")
    with pytest.raises(NothingMatchedError, match=r"it has optimizer \(cannot be read: optimizer\.pt: "):
        bundle_of(folder, tmp_path / "volume")


def test_a_folder_without_the_optimizer_is_one_of_weights(tmp_path: Path) -> None:
    folder = save_trainer(tmp_path / "checkpoint-3")
    (folder / "optimizer.pt").unlink()
    assert index_of(folder).layout == "safetensors"
    with pytest.raises(NothingMatchedError, match="holds no optimizer's state, so training cannot go on"):
        bundle_of(folder, tmp_path / "volume")


def test_weights_alone_are_taken_of_a_training(tmp_path: Path) -> None:
    folder = bundle_of(save_trainer(tmp_path / "checkpoint-3"), tmp_path / "volume", "weightsOnly")
    assert {path.name for path in folder.iterdir()} >= {"model.safetensors", "manifest.json"}
    assert not (folder / "state.json").exists()


def test_an_array_that_is_none_of_a_generator_stays_as_it_is(tmp_path: Path) -> None:
    folder = save_trainer(tmp_path / "checkpoint-3")
    odd = [
        ("MT19937", numpy.arange(size, dtype=dtype)) for size, dtype in ((3, "uint32"), (624, "int64"), (624, ">u4"))
    ]
    for value in odd:
        torch.save({"numpy": value}, folder / "rng_state.pth")
        [state] = index_of(folder).state["random_states"]
        assert isinstance(state["numpy"][1], Node)


@pytest.mark.filterwarnings("ignore")  # of Accelerate and what it uses
def test_what_accelerate_saved_is_in_the_bundle(tmp_path: Path) -> None:
    from accelerate import Accelerator

    accelerator, model = Accelerator(cpu=True), torch.nn.Linear(2, 3)
    optimizers = [
        torch.optim.SGD(model.parameters(), momentum=0.5),
        torch.optim.AdamW([torch.nn.Parameter(WEIGHTS["a"])]),
    ]
    scheduler = torch.optim.lr_scheduler.StepLR(optimizers[0], 2)
    prepared = accelerator.prepare(model, *optimizers, scheduler)
    accelerator.backward(model(torch.ones(1, 2)).sum())
    prepared[1].step()
    accelerator.save_state(tmp_path / "saved")
    training = open_bundle(bundle_of(tmp_path / "saved", tmp_path / "volume")).training_state()
    assert training is not None
    state = training.read(training.tree)
    assert [len(each["param_groups"]) for each in state["optimizers"]] == [1, 1]
    assert torch.equal(state["optimizers"][0]["state"][1]["momentum_buffer"], torch.ones(3))
    assert state["lr_schedulers"] == [scheduler.state_dict()]
    assert state["random_states"][0]["numpy_random_seed"][1] == numpy.random.get_state()[1].tolist()  # type: ignore[index]
