"""Names of wrapped models beside those of plain ones."""

import pytest
import torch
from shim.bundles import write_bundle

from preheat.bundle.data import open_bundle
from preheat.context import CheckpointContext
from preheat.pipeline import CheckpointPipeline
from preheat.strategies import TransferLearningLoader, WeightsOnlyLoader
from preheat.strategies.wrapping import followed


@pytest.mark.parametrize(
    ("checkpoint", "model", "names"),
    [
        ("a.w b", "a.w b", {}),
        ("a.w b", "_orig_mod.a.w _orig_mod.b", {"a.w": "_orig_mod.a.w", "b": "_orig_mod.b"}),
        ("a.w b", "a._orig_mod.w b", {"a.w": "a._orig_mod.w"}),
        ("a._orig_mod.w", "a._fsdp_wrapped_module._checkpoint_wrapped_module.w",
         {"a._orig_mod.w": "a._fsdp_wrapped_module._checkpoint_wrapped_module.w"}),
        ("module.a module.b", "a b", {"module.a": "a", "module.b": "b"}),
        ("a", "module._orig_mod.a", {"a": "module._orig_mod.a"}),
        ("module.a b", "a b", {}),  # not every name is below it, so it is somebody's attribute
        ("a", "a _orig_mod.a", {}),
        ("a _orig_mod.a", "module.a", {}),
        ("a", "x.a", {}),
        ("", "a", {}),
    ],
)  # fmt: skip
def test_names_are_followed_through_wrappers_where_one_remains(checkpoint, model, names):
    assert followed(checkpoint.split(), model.split()) == names


def load(folder, model, loader):
    data = open_bundle(folder)
    context = CheckpointPipeline([loader]).execute_sync(CheckpointContext(model=model, checkpoint_data=data))
    data.close()
    return context


def test_compiled_layers_are_known_by_their_plain_names(tmp_path):
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(3, 3), "head": torch.nn.Linear(3, 2)})
    model["body"] = torch.compile(model["body"])
    wanted = {"body.weight": torch.randn(3, 3), "body.bias": torch.randn(3), "head.bias": torch.randn(7)}
    folder = write_bundle(tmp_path, wanted)
    done = load(folder, torch.compile(model), TransferLearningLoader())
    assert torch.equal(model["body"]._orig_mod.weight, wanted["body.weight"])
    assert done.get_metadata("transferred_params") == [
        "_orig_mod.body._orig_mod.weight",
        "_orig_mod.body._orig_mod.bias",
    ]
    assert "3 names matched without their wrappers" in done.get_metadata("loading_notes")[0]


def test_a_dict_of_tensors_is_followed_too():
    model, wanted = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    data = {"state_dict": {f"module.{name}": value for name, value in wanted.state_dict().items()}}
    CheckpointPipeline([WeightsOnlyLoader()]).execute_sync(CheckpointContext(model=model, checkpoint_data=data))
    assert torch.equal(model.weight, wanted.weight)
