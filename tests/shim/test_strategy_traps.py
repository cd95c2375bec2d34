"""What loading strategies elsewhere do wrong, tried with each of ours: nothing matched, shapes, lists, foreign data."""

import copy

import pytest
import torch

from preheat import CheckpointContext, CheckpointPipeline
from preheat.errors import CheckpointError, CheckpointIncompatibleError, NothingMatchedError

STRATEGIES = {
    "weightsOnly": {"weightsOnly": {}},
    "weightsOnly, not strict": {"weightsOnly": {"strict": False}},
    "transferLearning": {"transferLearning": {}},
    "transferLearning, mismatches refused": {"transferLearning": {"skipMismatched": False}},
    "transferLearning, strict": {"transferLearning": {"strict": True}},
    "warmStart": {"warmStart": {}},
    "warmStart, not strict": {"warmStart": {"strict": False}},
    "coldStart": {"coldStart": {}},
    "coldStart, not strict": {"coldStart": {"strict": False}},
}
SKIPPING = {"transferLearning", "transferLearning, strict"}  # what has another shape
strategies = pytest.mark.parametrize("strategy", STRATEGIES)


class Run:
    """A model, its optimizer and scheduler, and a checkpoint of another training of the same kind."""

    def __init__(self):
        torch.manual_seed(11)
        self.model, self.optimizer, self.scheduler = self.training()
        other, optimizer, scheduler = self.training()
        other(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        self.saved = {
            "state_dict": other.state_dict(), "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [scheduler.state_dict()], "epoch": 3, "global_step": 7, "best_metric": 0.5,
        }  # fmt: skip
        self.before = copy.deepcopy(self.model.state_dict())
        self.optimizer_before = copy.deepcopy(self.optimizer.state_dict())

    @staticmethod
    def training():
        model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
        optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.1)
        return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 5)

    def load(self, strategy):
        self.context = CheckpointContext(
            model=self.model, optimizer=self.optimizer, scheduler=self.scheduler, checkpoint_data=self.saved
        )
        return CheckpointPipeline([STRATEGIES[strategy]]).execute_sync(self.context)

    @property
    def untouched(self):
        same = all(torch.equal(value, self.before[name]) for name, value in self.model.state_dict().items())
        kept = self.context.optimizer is self.optimizer and self.context.scheduler is self.scheduler
        fresh = self.optimizer.state_dict()["state"] == self.optimizer_before["state"] == {}
        return same and kept and fresh and not hasattr(self.model, "weights_initialized")


@pytest.fixture
def run():
    return Run()


@strategies
def test_nothing_matched_is_a_failure_that_leaves_everything_as_it_was(run, strategy):
    run.saved["state_dict"] = {f"net.{name}": value for name, value in run.saved["state_dict"].items()}
    with pytest.raises(NothingMatchedError, match=r"without the prefix 'net\.'"):
        run.load(strategy)
    assert run.untouched


@strategies
def test_a_shape_that_differs_is_one_clear_error_or_skipped_with_both_shapes(run, strategy):
    run.saved["state_dict"] |= {"0.weight": torch.ones(3, 5), "0.bias": torch.ones(4)}
    if strategy in SKIPPING:
        said = run.load(strategy).metadata
        shapes = {"0.weight": "shape [3, 5], model has [3, 4]", "0.bias": "shape [4], model has [3]"}
        assert said["skipped_params"] == said["initial_params"] == shapes
        return
    with pytest.raises(CheckpointIncompatibleError) as caught:
        run.load(strategy)
    assert "2 do not fit: 0.weight (shape [3, 5], model has [3, 4]), 0.bias (shape [4], model has [3])" in str(
        caught.value
    )
    assert run.untouched


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if "not strict" in name or name in SKIPPING])
def test_tensors_of_the_model_alone_are_listed_as_left_at_their_initial_value(run, strategy):
    for name in ("1.weight", "1.running_mean"):
        del run.saved["state_dict"][name]
    said = run.load(strategy).metadata
    assert said["initial_params"] == dict.fromkeys(("1.weight", "1.running_mean"), "not in the checkpoint")
    assert torch.equal(run.model[1].weight, run.before["1.weight"])


@strategies
def test_a_cast_is_reported(run, strategy):
    run.saved["state_dict"]["0.weight"] = run.saved["state_dict"]["0.weight"].double()
    assert run.load(strategy).metadata["dtype_casts"] == {"0.weight": "F64 -> F32"}


@strategies
def test_the_callers_data_is_neither_changed_nor_shared_with_the_model(run, strategy):
    given = copy.deepcopy(run.saved)
    memory = {value.data_ptr() for value in run.saved["state_dict"].values()}
    done = run.load(strategy)
    assert memory.isdisjoint({value.data_ptr() for value in run.model.state_dict().values()})
    run.model(torch.ones(2, 4)).sum().backward()
    (done.optimizer or torch.optim.SGD(run.model.parameters(), lr=1.0)).step()
    assert list(run.saved) == list(given)
    for name, value in given["state_dict"].items():
        assert torch.equal(run.saved["state_dict"][name], value)
    for key, entry in given["optimizer_states"][0]["state"].items():
        assert all(torch.equal(run.saved["optimizer_states"][0]["state"][key][kind], v) for kind, v in entry.items())


@strategies
def test_only_a_warm_start_keeps_the_optimizer_and_the_progress(run, strategy):
    done = run.load(strategy)
    assert done.model.weights_initialized
    if strategy.startswith("warmStart"):
        assert (done.optimizer, done.scheduler) == (run.optimizer, run.scheduler)
        assert (done.metadata["epoch"], done.metadata["global_step"]) == (3, 7)
        assert done.metadata["training_state"]["best_metric"] == 0.5
        return
    assert done.optimizer is done.scheduler is None
    progress = {"epoch": 0, "global_step": 0} if strategy.startswith("coldStart") else {}
    assert {key: done.metadata[key] for key in ("epoch", "global_step") if key in done.metadata} == progress


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("optimizer_states", [], "optimizer"),
        ("optimizer_states", None, "optimizer"),
        ("lr_schedulers", [], "the state of 0 schedulers"),
        ("optimizer_states", "twice", "the state of 2 optimizers"),
    ],
)
def test_a_warm_start_names_the_state_that_is_not_there(run, key, value, words):
    run.saved[key] = run.saved[key] * 2 if value == "twice" else value
    with pytest.raises(CheckpointError, match=words):
        run.load("warmStart")
    assert run.untouched


@strategies
def test_a_checkpoint_without_tensors_is_named_by_its_keys(run, strategy):
    run.saved["state_dict"] = {}
    with pytest.raises(CheckpointError):
        run.load(strategy)
    assert run.untouched


@strategies
def test_without_a_model_or_data_it_says_what_is_missing(run, strategy):
    for missing in ("model", "checkpoint_data"):
        given = {"model": run.model, "checkpoint_data": run.saved, "optimizer": run.optimizer, missing: None}
        with pytest.raises(CheckpointError):
            CheckpointPipeline([STRATEGIES[strategy]]).execute_sync(CheckpointContext(**given))
    assert run.before.keys() == run.model.state_dict().keys()


@strategies
def test_a_failure_half_way_says_that_the_model_was_touched(run, strategy, monkeypatch):
    from preheat.strategies import weights

    def broken(self, targets):
        torch.nn.init.zeros_(run.model[0].bias)
        raise OSError("the disk is gone")

    monkeypatch.setattr(weights.LoadedWeights, "fill", broken)
    with pytest.raises(CheckpointError, match="the model was touched: do not train with it") as caught:
        run.load(strategy)
    assert caught.value.touched


def test_what_lies_among_weights_and_is_no_tensor_is_named(run):
    run.saved["state_dict"]["0.bias"] = run.saved["state_dict"]["0.bias"].numpy()
    said = run.load("transferLearning").metadata
    assert said["initial_params"] == {"0.bias": "not in the checkpoint"}
    assert "left out, being no tensors: 0.bias (ndarray)" in said["loading_notes"]


@strategies
def test_tensors_without_elements_are_no_match(run, strategy):
    run.model.register_buffer("none", torch.empty(0))
    run.before = copy.deepcopy(run.model.state_dict())
    run.saved["state_dict"] = {"none": torch.empty(0), "other": torch.ones(3)}
    with pytest.raises(NothingMatchedError, match="no tensor but empty ones, such as none, is in the model"):
        run.load(strategy)
    assert run.untouched


@strategies
def test_tensors_of_the_model_itself_are_read_before_they_change(run, strategy):
    run.model = torch.nn.ModuleDict({name: torch.nn.Linear(3, 3, bias=False) for name in "abc"})
    run.optimizer = torch.optim.AdamW(run.model.named_parameters())
    run.scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, 5)
    run.saved["optimizer_states"] = [run.optimizer.state_dict()]
    own = run.model.state_dict()
    before = copy.deepcopy(own)
    run.saved["state_dict"] = {"a.weight": own["b.weight"], "b.weight": own["a.weight"], "c.weight": own["c.weight"]}
    run.load(strategy)
    for name, other in (("a", "b"), ("b", "a"), ("c", "c")):
        assert torch.equal(run.model[name].weight, before[f"{other}.weight"])


@strategies
def test_a_checkpoint_s_tensor_that_is_not_dense_is_named(run, strategy):
    run.saved["state_dict"]["0.weight"] = torch.eye(3, 4).to_sparse()
    with pytest.raises(CheckpointIncompatibleError, match=r"'0\.weight' of the checkpoint is torch.sparse_coo"):
        run.load(strategy)
    assert run.untouched


def test_a_model_of_inference_mode_is_refused_untouched(run):
    with torch.inference_mode():
        made = torch.nn.Linear(4, 3)
        before = made.weight.clone()
    context = CheckpointContext(model=made, checkpoint_data={"state_dict": torch.nn.Linear(4, 3).state_dict()})
    with pytest.raises(CheckpointIncompatibleError, match="'weight' was made in inference mode") as caught:
        CheckpointPipeline([{"weightsOnly": {}}]).execute_sync(context)
    assert not caught.value.touched
    assert torch.equal(made.weight, before)
