"""Models on the meta device: memory where it belongs, values for every tensor, or nothing at all."""

import pytest
import torch
from shim.bundles import write_bundle

from preheat.bundle.data import open_bundle
from preheat.context import CheckpointContext
from preheat.errors import CheckpointIncompatibleError, CheckpointLoadError
from preheat.pipeline import CheckpointPipeline
from preheat.strategies import ColdStartLoader, TransferLearningLoader, WeightsOnlyLoader


class Tied(torch.nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.embed = torch.nn.Embedding(4, 3)
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
        self.head = torch.nn.Linear(3, classes, bias=False)
        if classes == 4:
            self.head.weight = self.embed.weight


class Scaled(torch.nn.Module):
    """A parameter and a buffer that nothing but the constructor gives values."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))
        self.register_buffer("table", torch.arange(3.0), persistent=False)


class Forgetful(torch.nn.Linear):
    def reset_parameters(self):
        torch.nn.init.zeros_(self.weight)


def on_meta(build, *arguments):
    with torch.device("meta"):
        return build(*arguments)


def load(tmp_path, model, tensors, loader=None, **settings):
    folder = tmp_path / "bundle"
    data = open_bundle(folder if tensors is None else write_bundle(folder, tensors))
    try:
        context = CheckpointContext(model=model, checkpoint_data=data, **settings)
        return CheckpointPipeline([loader or WeightsOnlyLoader()]).execute_sync(context)
    finally:
        data.close()


def trained():
    torch.manual_seed(2)
    state = {name: torch.randn(tensor.shape) for name, tensor in Tied().state_dict().items()}
    return {**state, "head.weight": state["embed.weight"].clone(), "body.1.num_batches_tracked": torch.tensor(5)}


def test_a_model_without_memory_gets_memory_and_values_and_stays_the_same_objects(tmp_path):
    model, wanted = on_meta(Tied), trained()
    parameters = list(model.parameters())
    parameters[0].mine = "kept"
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    done = load(tmp_path, model, wanted)
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert model.head.weight is model.embed.weight
    assert model.embed.weight.mine == "kept"
    assert done.get_metadata("loading_notes") == ["gave 8 tensors memory on cpu"]
    model.body(model.embed(torch.arange(3))).sum().backward()
    optimizer.step()
    assert not torch.equal(model.body[1].bias, wanted["body.1.bias"])


def test_only_what_has_no_memory_gets_some(tmp_path):
    model = Tied()
    model.body = on_meta(lambda: Tied().body)
    kept = model.embed.weight.data_ptr()
    load(tmp_path, model, trained())
    assert model.embed.weight.data_ptr() == kept
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


def test_a_layer_that_the_checkpoint_does_not_fit_is_initialised_as_its_constructor_would(tmp_path):
    model, wanted = on_meta(Tied, 9), trained()
    torch.manual_seed(4)
    done = load(tmp_path, model, wanted, TransferLearningLoader())
    torch.manual_seed(4)
    assert torch.equal(model.head.weight, torch.nn.Linear(3, 9, bias=False).weight)
    assert done.get_metadata("loading_notes")[1] == "initialised head by their own method"
    assert done.get_metadata("initial_params") == {"head.weight": "shape [4, 3], model has [9, 3]"}


def test_cold_start_initialises_the_layers_that_it_leaves_out(tmp_path):
    model = on_meta(Tied, 9)
    load(tmp_path, model, trained(), ColdStartLoader(reset_layers=["head", "body"]))
    assert torch.equal(model.body[1].weight, torch.ones(3))
    assert model.body[1].num_batches_tracked == 0
    assert model.head.weight.std() > 0


def test_tensors_that_nothing_gives_a_value_are_refused_untouched(tmp_path):
    model = on_meta(Scaled)
    with pytest.raises(
        CheckpointIncompatibleError, match=r"^table would have no value.*Scaled has no reset_parameters"
    ):
        load(tmp_path, model, {"scale": torch.ones(3)})
    assert model.scale.is_meta


def test_memory_that_a_module_forgets_to_initialise_is_never_handed_out(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), on_meta(Forgetful, 3, 3))
    tensors = {"0.weight": torch.ones(3, 3), "0.bias": torch.ones(3)}
    with pytest.raises(CheckpointLoadError, match=r"gave no value to 1\.bias; the model was touched"):
        load(tmp_path, model, tensors, TransferLearningLoader())


@pytest.mark.parametrize("settings", [{"device": "cpu"}, {}], ids=["asked for", "by default"])
def test_memory_is_real_also_where_new_tensors_are_not(tmp_path, settings):
    model = on_meta(Tied)
    write_bundle(tmp_path / "bundle", trained())
    with torch.device("meta"):
        load(tmp_path, model, None, **settings)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
