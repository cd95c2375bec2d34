"""The precision modifier: one cast per tensor, the same objects, and refusals before anything is changed."""

import copy
import io
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from shim.bundles import write_bundle

import preheat
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, NothingMatchedError
from preheat.modifiers import PrecisionModifier
from preheat.pipeline import CheckpointPipeline
from preheat.shim.reports.tree import leaves, model_tree
from preheat.spelling import build, spell

HALF, FULL = torch.bfloat16, torch.float32


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(8, 4)
        self.norm = torch.nn.LayerNorm(4)
        self.rnn = torch.nn.LSTM(4, 4)
        self.gate = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 8, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.ones(2), persistent=False)
        self.register_buffer("steps", torch.tensor([3]))
        self.register_buffer("mask", torch.tensor([True]))
        self.register_buffer("phase", torch.ones(2, dtype=torch.complex64))

    def forward(self, x):
        hidden = self.norm(self.embed(x).to(self.norm.weight.dtype)).to(self.gate.weight.dtype)
        return self.head(self.rnn(self.gate(hidden))[0]).sum()


@pytest.fixture
def model():
    torch.manual_seed(1)
    return Net()


def cast(model, optimizer=None, **settings):
    pipeline = CheckpointPipeline([{"precision": settings}])
    context = CheckpointContext(model=model, optimizer=optimizer)
    return pipeline.execute_sync(context).metadata["modifiers_applied"][0]


def dtypes(model):
    """Of everything, by the name of the module or tensor at the top."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name.partition(".")[0]: tensor.dtype for name, tensor in named}


def objects(model):
    return [id(tensor) for tensor in [*model.parameters(), *model.buffers()]]


def half(*layers):
    return {"layers": list(layers), "dtype": "bfloat16"}


OTHERS = {"steps": torch.int64, "mask": torch.bool, "phase": torch.complex64}


@pytest.mark.parametrize(
    ("settings", "full"),
    [
        ({"dtype": "bfloat16"}, ()),
        ({"dtype": "bfloat16", "norms": "float32"}, ("norm",)),
        ({"dtype": "bfloat16", "keep": ["table", "gate"]}, ("table", "gate")),
        ({"rules": [half("rnn")]}, ("embed", "norm", "gate", "table")),
        ({"norms": "bfloat16"}, ("embed", "rnn", "gate", "table")),
        ({"dtype": "float32", "rules": [half("*"), {"layers": ["g*"], "dtype": "float32"}]}, ("gate",)),
        ({"norms": "float32", "rules": [half("norm", "rnn")], "keep": ["rnn"]}, ("embed", "rnn", "gate", "table")),
    ],
)
def test_the_last_that_names_a_tensor_decides(model, settings, full):
    cast(model, **settings)
    expected = {name: FULL if name in full else HALF for name in dtypes(Net()) if name not in OTHERS}
    assert dtypes(model) == {**expected, **OTHERS}


def test_values_are_rounded_once_and_everything_stays_the_same_object(model):
    before, same = copy.deepcopy(model.state_dict()), objects(model)
    model.norm.requires_grad_(False)
    entry = cast(model, dtype="bfloat16")
    assert objects(model) == same
    assert model.head.weight is model.embed.weight
    assert all(torch.equal(tensor, before[name].to(tensor.dtype)) for name, tensor in model.state_dict().items())
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == [
        "norm.weight", "norm.bias",
    ]  # fmt: skip
    assert entry["tensors"].keys() == {
        "table", "embed.weight", "head.weight", "norm.weight", "norm.bias", "gate.weight", "gate.bias",
        "rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "rnn.bias_hh_l0",
    }  # fmt: skip
    assert set(entry["tensors"].values()) == {"F32 -> BF16"}
    assert entry["says"] == "cast 11 tensors F32 -> BF16"
    assert entry["bytes_after"] * 2 == entry["bytes_before"]


def test_types_outlast_saving(model):
    cast(model, dtype="bfloat16", norms="float32")
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    saved = torch.load(file)
    assert saved["gate.weight"].dtype == HALF
    assert saved["norm.weight"].dtype == FULL


@pytest.mark.parametrize("early", [True, False], ids=["optimizer before", "optimizer after"])
def test_an_optimizer_steps_in_the_new_type(model, early):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1) if early else None
    cast(model, optimizer, dtype="bfloat16", norms="float32")
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=0.1)
    before = model.gate.weight.detach().clone()
    model(torch.arange(3).view(3, 1)).backward()
    optimizer.step()
    assert optimizer.state[model.gate.weight]["exp_avg"].dtype == HALF
    assert optimizer.state[model.norm.weight]["exp_avg"].dtype == FULL
    assert not torch.equal(before, model.gate.weight)


def test_parameters_that_share_memory_go_on_sharing_it(model):
    model.gate.weight = torch.nn.Parameter(model.rnn.weight_hh_l0.detach()[:4])
    model.out = torch.nn.Linear(4, 4, bias=False)
    model.out.weight = torch.nn.Parameter(model.gate.weight.detach())
    cast(model, dtype="bfloat16")
    assert model.out.weight.data_ptr() == model.gate.weight.data_ptr()


def test_a_model_that_has_its_types_already_is_left_alone(model):
    assert cast(model, dtype="float32")["says"] == "cast nothing: all tensors have their types already"


def test_gradients_of_other_values_are_dropped(model):
    model(torch.arange(3).view(3, 1)).backward()
    cast(model, dtype="bfloat16")
    assert all(parameter.grad is None for parameter in model.parameters())


def test_on_the_meta_device_types_change_as_well():
    with torch.device("meta"):
        model = Net()
    cast(model, dtype="bfloat16")
    assert model.gate.weight.dtype == HALF
    assert model.gate.weight.is_meta


def test_compiled_and_wrapped_names_are_followed(model):
    compiled = torch.compile(torch.nn.Sequential(model), backend="eager")
    cast(compiled, rules=[{"layers": ["0.gate"], "dtype": "bfloat16"}])
    assert model.gate.weight.dtype == HALF


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rules": [half("gat")]}, r"no floating-point tensor at 'gat' \(did you mean 'gate"),
        ({"dtype": "bfloat16", "keep": ["steps"]}, "no floating-point tensor at 'steps'"),
        ({"dtype": "bfloat16", "rules": [half("head", "x")]}, "no floating-point tensor at 'x'"),
    ],
)
def test_a_path_that_names_nothing_is_an_error_and_nothing_is_cast(model, settings, words):
    with pytest.raises(NothingMatchedError, match=words):
        cast(model, **settings)
    assert dtypes(model) == dtypes(Net())


def test_norms_that_are_not_there_are_an_error():
    with pytest.raises(NothingMatchedError, match=r"no normalisation layer\. Leave norms out"):
        cast(torch.nn.Linear(2, 2), dtype="bfloat16", norms="float32")


def test_tied_tensors_cannot_differ(model):
    with pytest.raises(CheckpointIncompatibleError, match=r"embed\.weight BF16, head\.weight F16. Name all of them"):
        cast(model, dtype="bfloat16", rules=[{"layers": ["head"], "dtype": "float16"}])
    assert dtypes(model) == dtypes(Net())


def test_an_optimizer_that_holds_states_is_not_left_behind(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.arange(3).view(3, 1)).backward()
    optimizer.step()
    with pytest.raises(CheckpointIncompatibleError, match=r"state of embed\.weight, .*Build the model in the type"):
        cast(model, optimizer, dtype="bfloat16")
    cast(model, optimizer, rules=[{"layers": ["table"], "dtype": "bfloat16"}])


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_model_that_is_wrapped_already_is_refused(model, group):
    for wrapped in (
        torch.nn.parallel.DistributedDataParallel(Net()),
        dist.fsdp.FullyShardedDataParallel(torch.nn.Linear(2, 2), device_id=torch.device("cpu")),
    ):
        with pytest.raises(CheckpointIncompatibleError, match="Apply the checkpoint before the model is wrapped"):
            cast(wrapped, dtype="bfloat16")


def test_a_sharded_model_that_has_run_is_refused(group):
    model = dist.fsdp.fully_shard(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)))
    model(torch.randn(1, 2))
    with pytest.raises(CheckpointIncompatibleError, match="before the model's first step"):
        cast(model, dtype="bfloat16")


@pytest.mark.parametrize(("precision", "works"), [("bf16-true", False), ("64-true", False), ("bf16-mixed", True)])
def test_a_trainer_that_would_cast_everything_afterwards_is_refused(model, precision, works):
    module = SimpleNamespace(_trainer=SimpleNamespace(precision=precision))
    stage = PrecisionModifier("bfloat16", norms="float32")
    context = CheckpointContext(model=model, pl_module=module)
    with (
        nullcontext()
        if works
        else pytest.raises(CheckpointConfigError, match=f"precision='{precision}' casts the whole")
    ):
        CheckpointPipeline([stage]).execute_sync(context)
    assert (model.gate.weight.dtype == HALF) == works


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({}, "give dtype, norms or rules"),
        ({"keep": ["head"]}, "give dtype, norms or rules"),
        ({"dtype": "int8"}, "'int8' is none of float32, float16, bfloat16"),
        ({"norms": "half"}, "'half' is none of"),
        ({"dtype": "float16", "keep": "head"}, "give a list"),
        ({"rules": {"layers": ["head"], "dtype": "float16"}}, "give a list"),
        ({"rules": ["head"]}, "is no {layers"),
        ({"rules": [{"layers": [], "dtype": "float16"}]}, "must not be empty"),
        ({"rules": [{"layers": ["head"], "dtype": "f16"}]}, "'f16' is none of"),
        ({"rules": [{"layers": ["head"]}]}, "dtype"),
    ],
)
def test_a_wrong_stage_says_what_is_wrong(stage, words):
    with pytest.raises(CheckpointConfigError, match=words):
        build({"precision": stage})


def test_a_stage_is_written_down_as_it_was():
    stage = PrecisionModifier("bfloat16", rules=[{"layers": ["head"], "dtype": "float32"}], keep=["rope"])
    assert build(spell(stage)) == stage
    assert spell(stage) == {
        "precision": {"dtype": "bfloat16", "rules": [{"layers": ["head"], "dtype": "float32"}], "keep": ["rope"]}
    }


def test_the_report_has_every_cast_and_the_log_only_their_number(tmp_path, monkeypatch, capsys, model):
    tensors = {name: tensor.half() for name, tensor in Net().state_dict().items() if name == "gate.weight"}
    stages = [{"weightsOnly": {"strict": False}}, {"precision": {"dtype": "bfloat16", "keep": ["rnn"]}}]
    monkeypatch.setenv("PREHEAT_BUNDLE", str(write_bundle(tmp_path / "bundle", tensors, stages)))
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    report = preheat.apply(model)
    document = report.to_mapping()
    states = {leaf.name: (leaf.state, leaf.reason, leaf.dtype) for leaf in leaves(model_tree(document))}
    assert states["gate.weight"] == ("cast", "F16 -> F32, then F32 -> BF16", "BF16")
    assert states["gate.bias"] == ("initial", "not in the checkpoint", "BF16")
    assert "cast 7 tensors F32 -> BF16" in report.line()
    assert document["modifiers"][0]["tensors"]["gate.bias"] == "F32 -> BF16"
    logged = capsys.readouterr().err.partition("preheat.report ")[2]
    assert '"total_cast_tensors":7' in logged
    assert 'gate.bias":"F32' not in logged
