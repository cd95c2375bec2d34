"""Cold start: pretrained weights, except the layers that are to begin anew."""

import pytest
import torch
from shim.bundles import write_bundle

import preheat
from preheat.bundle.store import Store
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, NothingMatchedError
from preheat.pipeline import CheckpointPipeline
from preheat.prepare import prepare
from preheat.sources import LocalSource
from preheat.spec import parse
from preheat.strategies import ColdStartLoader

CLASS_PATHS = ["preheat.strategies.ColdStartLoader", "anemoi.training.checkpoint.loaders.ColdStartLoader"]


def network(classes=3):
    return torch.nn.ModuleDict({
        "backbone": torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6)),
        "classifier": torch.nn.Linear(6, classes),
    })  # fmt: skip


def copies(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def trained(tmp_path):
    model = network()
    path = tmp_path / "trained.ckpt"
    torch.save({"state_dict": model.state_dict(), "epoch": 7, "global_step": 900}, path)
    return LocalSource(str(path)), model.state_dict()


def load(source, model, loader):
    return CheckpointPipeline([source, loader]).execute_sync(CheckpointContext(model=model, optimizer=object()))


@pytest.mark.parametrize("class_path", CLASS_PATHS)
@pytest.mark.parametrize("classes", [3, 10])
def test_the_guides_example_keeps_the_new_classifier_whatever_its_shape(trained, class_path, classes):
    source, wanted = trained
    model = network(classes)
    initial = copies(model)
    done = load(source, model, {"_target_": class_path, "strict": False, "reset_layers": ["classifier"]})
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (initial if name.startswith("classifier") else wanted)[name])
    assert done.metadata["initial_params"] == {"classifier.weight": "reset", "classifier.bias": "reset"}
    assert done.metadata["skipped_params"] == {"classifier.weight": "reset", "classifier.bias": "reset"}
    assert all(not name.startswith("classifier") for name in done.metadata["transferred_params"])


def test_progress_begins_at_zero_and_the_origin_is_recorded(trained):
    source, wanted = trained
    model = network()
    done = load(source, model, ColdStartLoader())
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
    assert (done.metadata["epoch"], done.metadata["global_step"]) == (0, 0)
    assert done.metadata["loading_strategy"] == "cold_start"
    assert done.metadata["pretrained_from"] == source.uri
    assert done.optimizer is None


@pytest.mark.parametrize("paths", [["backbone.*"], ["backbone.1", "backbone.0"], ["back*"]])
def test_globs_and_buffers_are_reset_too(trained, paths):
    source, wanted = trained
    model = network()
    initial = copies(model)
    load(source, model, ColdStartLoader(reset_layers=paths))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (initial if name.startswith("backbone") else wanted)[name])


def test_strict_holds_outside_of_what_is_reset(trained):
    source, _ = trained
    model = network(10)
    model["extra"] = torch.nn.Linear(2, 2)
    initial = copies(model)
    with pytest.raises(CheckpointIncompatibleError, match=r"2 of the model are not in the checkpoint: extra\.weight"):
        load(source, model, ColdStartLoader(reset_layers=("classifier",)))
    assert all(torch.equal(tensor, initial[name]) for name, tensor in model.state_dict().items())
    load(source, model, ColdStartLoader(reset_layers=("classifier", "extra")))


def test_another_shape_elsewhere_is_an_error_also_when_not_strict(trained):
    source, _ = trained
    with pytest.raises(
        CheckpointIncompatibleError, match=r"classifier\.weight \(shape \[3, 6\], model has \[10, 6\]\)"
    ):
        load(source, network(10), ColdStartLoader(strict=False, reset_layers=("backbone.1",)))


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["clasifier"], "did you mean 'classifier'"),
        (["classifier", "1"], "'1'.*did you mean 'backbone.1'"),
        (["classifier.weight.x"], "nothing to reset at"),
        (["*"], r"every tensor of the model is left out \(reset\)"),
    ],
)
def test_a_path_that_matches_nothing_or_everything_is_refused_untouched(trained, paths, words):
    source, _ = trained
    model = network()
    initial = copies(model)
    with pytest.raises(NothingMatchedError, match=words):
        load(source, model, ColdStartLoader(strict=False, reset_layers=tuple(paths)))
    assert all(torch.equal(tensor, initial[name]) for name, tensor in model.state_dict().items())


def test_a_layer_that_is_tied_to_a_loaded_one_cannot_be_reset(tmp_path):
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(5, 4), "head": torch.nn.Linear(4, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    torch.save(model.state_dict(), tmp_path / "tied.pt")
    with pytest.raises(CheckpointIncompatibleError, match=r"cannot keep its initial value \(reset\): it is tied to"):
        load(LocalSource(str(tmp_path / "tied.pt")), model, ColdStartLoader(reset_layers=("head",)))


def test_a_single_string_is_refused():
    with pytest.raises(CheckpointConfigError, match=r"reset_layers: give a list, such as \[classifier\]"):
        ColdStartLoader(reset_layers="classifier")


def test_the_report_of_a_bundle_says_what_was_reset(tmp_path, monkeypatch):
    wanted = network().state_dict()
    folder = write_bundle(tmp_path / "bundle", wanted, [{"coldStart": {"resetLayers": ["classifier"]}}])
    monkeypatch.setenv("PREHEAT_BUNDLE", str(folder))
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    report = preheat.apply(network(8))
    assert report.left_initial == {"classifier.weight": "reset", "classifier.bias": "reset"}
    assert "left at initial value: classifier.weight (reset), classifier.bias (reset)" in report.line()


async def test_a_bundle_names_its_source_as_the_origin(tmp_path):
    from preheat.bundle.data import open_bundle

    data = open_bundle(write_bundle(tmp_path, network().state_dict()))
    context = CheckpointContext(model=network(), checkpoint_data=data, checkpoint_path=data.blob.uri)
    done = await ColdStartLoader().process(context)
    data.close()
    assert done.metadata["pretrained_from"] == "s3://models/pretrained.ckpt"


def test_a_bundle_that_the_loader_made_begins_a_training_with_a_new_classifier(trained, tmp_path, monkeypatch):
    source, wanted = trained
    stages = [
        {"local": {"path": source.path}},
        {"coldStart": {"resetLayers": ["classifier"]}},
        {"reset": {"layers": ["backbone.1"]}},
        {"freezing": {"layers": ["backbone.0"], "evalMode": True}},
    ]
    made = prepare(parse({"stages": stages}), Store(tmp_path / "volume"), "test")
    monkeypatch.setenv("PREHEAT_BUNDLE", str(made.folder))
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    model = network(10)
    initial = copies(model)
    report = preheat.apply(model)
    assert torch.equal(model["backbone"][0].weight, wanted["backbone.0.weight"])
    assert torch.equal(model["classifier"].weight, initial["classifier.weight"])
    assert not model["backbone"][0].weight.requires_grad
    assert report.line().endswith(
        "left at initial value: classifier.weight (reset), classifier.bias (reset); reset 2 tensors (backbone.1); "
        "frozen 2 tensors (backbone.0), 1 module in eval mode"
    )
