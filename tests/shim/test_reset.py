"""The reset modifier: fresh values by a layer's own method, and refusals before anything is changed."""

import pytest
import torch

from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, CheckpointLoadError, NothingMatchedError
from preheat.modifiers import ResetModifier
from preheat.pipeline import CheckpointPipeline


class Scale(torch.nn.Module):
    """Parameters of its own and no way to initialise them."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(3))


class Fragile(torch.nn.Linear):
    def reset_parameters(self):
        if hasattr(self, "built"):
            raise ValueError("no fan-in")
        super().reset_parameters()


def build():
    torch.manual_seed(3)
    return torch.nn.ModuleDict({
        "body": torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)),
        "head": torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.ReLU(), torch.nn.Linear(4, 2)),
    })  # fmt: skip


@pytest.fixture
def model():
    """As if a checkpoint had been loaded: every value is 7."""
    return filled(build())


def filled(model):
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(7)
    return model


def reset(model, *layers):
    stage = ResetModifier(layers)
    [entry] = CheckpointPipeline([stage]).execute_sync(CheckpointContext(model=model)).metadata["modifiers_applied"]
    return entry


def untouched(model):
    return [name for name, tensor in model.state_dict().items() if bool((tensor == 7).all())]


def test_a_layer_and_everything_in_it_gets_fresh_values(model):
    parameters = list(model.parameters())
    entry = reset(model, "head")
    assert untouched(model) == [name for name in model.state_dict() if name.startswith("body")]
    assert entry == {"type": "reset", "layers": ["head"], "total_reset_modules": 2, "total_reset_params": 4,
                     "total_reset_elements": 4 + 4 + 8 + 2, "says": "reset 4 tensors (head)"}  # fmt: skip
    assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))


def test_running_statistics_begin_anew(model):
    reset(model, "body.1")
    assert not model["body"][1].running_mean.any()
    assert int(model["body"][1].num_batches_tracked) == 0


@pytest.mark.parametrize(("paths", "left"), [(["*.0"], ["body.1", "head.2"]), (["head.2", "body"], ["head.0"])])
def test_globs_and_several_paths(model, paths, left):
    reset(model, *paths)
    assert {name.rpartition(".")[0] for name in untouched(model)} == set(left)


@pytest.mark.parametrize(
    "layer", [lambda: torch.nn.TransformerEncoderLayer(8, 2, 16), lambda: torch.nn.MultiheadAttention(8, 2)]
)
def test_with_the_same_seed_a_reset_layer_is_a_newly_built_one(layer):
    torch.manual_seed(5)
    expected = layer().state_dict()
    model = torch.nn.ModuleDict({"block": filled(layer())})
    torch.manual_seed(5)
    reset(model, "block")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model["block"].state_dict().items())


def test_a_module_that_is_held_twice_is_reset_once():
    model = torch.nn.ModuleDict({"a": torch.nn.ModuleDict({"x": filled(torch.nn.Linear(2, 2))})})
    model["a"]["y"] = model["a"]["x"]
    assert reset(model, "a")["total_reset_modules"] == 1


def test_a_module_that_cannot_be_reset_is_named_before_anything_is_touched(model):
    model["head"].append(filled(Scale()))
    with pytest.raises(
        CheckpointIncompatibleError, match=r"'head\.3' cannot be reset: Scale has parameters and no res"
    ):
        reset(model, "body", "head")
    assert untouched(model) == list(model.state_dict())


def test_a_tied_parameter_is_not_reset_behind_its_other_name(model):
    model["tied"] = model["head"][2]
    with pytest.raises(CheckpointIncompatibleError, match=r"resetting head would also reset 'tied\.weight'"):
        reset(model, "head")
    assert untouched(model) == list(model.state_dict())
    reset(model, "head", "tied")


def test_a_layer_whose_own_method_fails_leaves_a_touched_model(model):
    model["odd"] = Fragile(2, 2)
    model["odd"].built = True
    with pytest.raises(CheckpointLoadError, match=r"no fan-in; the model was touched"):
        reset(model, "odd")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("haed", "did you mean 'head'"),
        ("2", "did you mean 'head.2'"),
        ("head.2.weight", "a parameter is reset with its module, 'head.2'"),
    ],
)
def test_a_path_that_names_no_module_is_an_error(model, path, words):
    with pytest.raises(NothingMatchedError, match=words):
        reset(model, "body", path)
    assert untouched(model) == list(model.state_dict())


def test_a_single_string_is_refused():
    with pytest.raises(CheckpointConfigError, match=r"give a list, such as \[head\]"):
        ResetModifier("head")


def test_a_model_whose_parameters_are_joined_is_refused(model, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        model["head"] = torch.distributed.fsdp.FullyShardedDataParallel(model["head"], device_id=torch.device("cpu"))
        with pytest.raises(CheckpointIncompatibleError, match="flat ones, which no layer can initialise"):
            reset(model, "body")
    finally:
        torch.distributed.destroy_process_group()


def test_layers_of_a_compiled_model_go_by_their_own_names(model):
    compiled = torch.compile(model, backend="eager")
    reset(compiled, "head")
    assert untouched(model) == [name for name in model.state_dict() if name.startswith("body")]
