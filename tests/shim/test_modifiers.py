"""Several modifiers in one pipeline: their order is the pipeline's, and each has its say in the report."""

import sys

import pytest
import torch
from shim.bundles import write_bundle

import preheat
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError
from preheat.modifiers import CustomModifier
from preheat.pipeline import CheckpointPipeline
from preheat.shim.reports.facts import facts
from preheat.shim.reports.html import page
from preheat.shim.reports.tree import leaves, model_tree

STAGES = [
    {"weightsOnly": {}},
    {"reset": {"layers": ["head"]}},
    {"prune": {"layers": ["body.2"], "amount": 0.5, "permanent": True}},
    {"precision": {"dtype": "bfloat16", "keep": ["head"]}},
    {"freezing": {"layers": ["body"]}},
    {"quantize": {"layers": ["body.0"]}},
    {"custom": {"target": "test_modifiers_stages.Silent"}},
]


class Silent:
    """A stage of a user's own that leaves no entry."""

    async def process(self, context):
        return context


def network():
    body = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32))
    return torch.nn.ModuleDict({"body": body, "head": torch.nn.Linear(32, 2)})


@pytest.fixture(autouse=True)
def stages(monkeypatch):
    monkeypatch.setitem(sys.modules, "test_modifiers_stages", sys.modules[__name__])


@pytest.mark.parametrize("target", ["os.system", "subprocess.Popen", "builtins.exec", "pathlib.Path"])
async def test_what_is_no_stage_is_never_called_with_the_pipelines_parameters(target, tmp_path):
    """Who writes a pipeline does not thereby run commands in pods of others."""
    made = tmp_path / "made"
    stage = CustomModifier(target, {"command": f"touch {made}", "args": ["touch", str(made)]})
    with pytest.raises(CheckpointConfigError, match=rf"{target} is no stage"):
        await stage.process(CheckpointContext(model=network()))
    assert not made.exists()


@pytest.fixture
def report(tmp_path, monkeypatch):
    monkeypatch.setenv("PREHEAT_BUNDLE", str(write_bundle(tmp_path / "bundle", network().state_dict(), STAGES)))
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    return preheat.apply(torch.compile(network(), backend="eager"))


SAID = [
    "reset 2 tensors (head)",
    "pruned 1 layer (body.2), 50.0% of their weights zero for good",
    "cast 4 tensors F32 -> BF16",
    "frozen 4 tensors (body)",
    "quantized 1 layer to int8 (body.0), 5",
    "ran test_modifiers_stages.Silent",
]


def test_each_speaks_in_the_order_of_the_pipeline(report):
    assert [entry["type"] for entry in report.modifiers] == [next(iter(stage)) for stage in STAGES[1:]]
    line, said = report.line(), [value for name, value in facts(report.to_mapping()) if name == "modifier"]
    assert sorted(map(line.index, SAID)) == list(map(line.index, SAID))
    assert all(value.startswith(words) for value, words in zip(said, SAID, strict=True))


def test_a_tensors_history_is_told_also_where_it_is_wrapped(report):
    found = {leaf.name: (leaf.state, leaf.reason) for leaf in leaves(model_tree(report.to_mapping()))}
    assert {name.removeprefix("_orig_mod."): said for name, said in found.items()} == {
        "body.0.weight": ("cast", "F32 -> BF16, then BF16 -> int8"),
        "body.0.bias": ("cast", "F32 -> BF16"),
        "body.2.weight": ("pruned", "50.0% zero, then F32 -> BF16"),
        "body.2.bias": ("cast", "F32 -> BF16"),
        "head.weight": ("reset", "reset after loading"),
        "head.bias": ("reset", "reset after loading"),
    }
    assert "50.0% zero, then F32 -&gt; BF16" in page(report.to_mapping())


def test_the_order_is_never_changed_to_make_it_fit():
    stages = [{"quantize": {"layers": ["body"]}}, {"freezing": {"layers": ["body"]}}]
    with pytest.raises(CheckpointIncompatibleError, match="put freezing before quantize"):
        CheckpointPipeline(stages).execute_sync(CheckpointContext(model=network()))
