"""Order, failures and the refusal to end with initial weights; real stages, real torch modules."""

import ast
import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import preheat
from preheat import (
    CheckpointConfigError,
    CheckpointContext,
    CheckpointError,
    CheckpointPipeline,
    NothingMatchedError,
    NoWeightsError,
    PipelineStage,
)
from preheat.modifiers import FreezingModifier
from preheat.sources import LocalSource
from preheat.strategies import TransferLearningLoader, WeightsOnlyLoader
from preheat.verify import Verify


class MyLoader(PipelineStage):
    """The custom stage of Anemoi's guide."""

    def __init__(self, strict: bool = True):
        self.strict = strict

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        if context.checkpoint_data and context.model:
            state_dict = context.checkpoint_data.get("state_dict", {})
            context.model.load_state_dict(state_dict, strict=self.strict)
            context.update_metadata(loading_strategy="custom", strict=self.strict)
        return context


class Silent(PipelineStage):
    """Loads by hand and says nothing."""

    async def process(self, context):
        with torch.no_grad():
            context.model.weight.copy_(context.checkpoint_data["state_dict"]["weight"])
        return context


class Failing(PipelineStage):
    def __init__(self, error):
        self.error = error

    async def process(self, context):
        raise self.error


class Forgetful(PipelineStage):
    async def process(self, context):
        return None


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": torch.nn.Linear(3, 2).state_dict(), "epoch": 4}, path)
    return path


@pytest.fixture
def context():
    return CheckpointContext(model=torch.nn.Linear(3, 2))


def expected(path):
    return torch.load(path, weights_only=True)["state_dict"]


def holds(model, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


async def test_a_source_a_check_a_strategy_and_a_modifier_run_in_order(checkpoint, context):
    stages = [LocalSource(str(checkpoint)), Verify(), WeightsOnlyLoader(), FreezingModifier(("weight",))]
    done = await CheckpointPipeline(stages).execute(context)
    assert holds(done.model, expected(checkpoint))
    assert [done.model.weight.requires_grad, done.model.bias.requires_grad] == [False, True]
    assert [key for key in done.metadata if key.startswith("stage_") and key[6].isdigit()] == [
        "stage_0_LocalSource", "stage_1_Verify", "stage_2_WeightsOnlyLoader", "stage_3_FreezingModifier",
    ]  # fmt: skip
    assert done.get_metadata("stage_2_WeightsOnlyLoader") == "completed"


@pytest.mark.parametrize("loader", [MyLoader(), Silent()])
def test_a_custom_stage_that_loads_counts_whether_it_says_so_or_not(checkpoint, context, loader):
    done = CheckpointPipeline([LocalSource(str(checkpoint)), loader], async_execution=False).execute(context)
    assert torch.equal(done.model.weight, expected(checkpoint)["weight"])


def test_stages_in_both_spellings_and_of_the_guide_build_the_same(checkpoint):
    mappings = [
        {"local": {"path": str(checkpoint)}},
        {"_target_": "anemoi.training.checkpoint.loaders.TransferLearningLoader", "skip_mismatched": True},
        {"_target_": "anemoi.training.checkpoint.modifiers.FreezingModifier", "layers": ["weight"]},
    ]
    objects = [LocalSource(str(checkpoint)), TransferLearningLoader(), FreezingModifier(("weight",))]
    assert CheckpointPipeline(mappings).stages == objects


def test_a_broken_stage_is_named_by_its_position():
    with pytest.raises(CheckpointConfigError, match=r"stages\[1\].*unknown component 'weights_onyl'.*weights_only"):
        CheckpointPipeline([LocalSource("x"), {"weightsOnyl": {}}])


def test_without_async_execution_the_context_itself_is_returned(checkpoint, context):
    pipeline = CheckpointPipeline([LocalSource(str(checkpoint)), WeightsOnlyLoader()], async_execution=False)
    assert pipeline.execute(context) is context


async def test_it_runs_inside_a_running_event_loop(checkpoint, context):
    asyncio.get_running_loop()
    CheckpointPipeline([LocalSource(str(checkpoint)), WeightsOnlyLoader()]).execute_sync(context)
    assert holds(context.model, expected(checkpoint))


def test_the_programs_own_event_loop_stays_set(checkpoint, context):
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        CheckpointPipeline([LocalSource(str(checkpoint)), WeightsOnlyLoader()]).execute_sync(context)
        assert asyncio.get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_stages_are_added_removed_and_cleared(caplog):
    pipeline = CheckpointPipeline([LocalSource("x")])
    loader = WeightsOnlyLoader()
    pipeline.add_stage(loader)
    pipeline.add_stage({"freezing": {"layers": ["weight"]}})
    assert len(pipeline) == 3
    pipeline.remove_stage(loader)
    pipeline.remove_stage(loader)
    assert "not in the pipeline" in caplog.text
    assert repr(pipeline).startswith("CheckpointPipeline([LocalSource, FreezingModifier], async_execution=True")
    pipeline.clear_stages()
    assert len(pipeline) == 0


@pytest.mark.parametrize("thing", [42, "local", LocalSource, object()])
def test_what_has_no_process_is_no_stage(thing):
    with pytest.raises(CheckpointConfigError, match=r"stages\[0\]"):
        CheckpointPipeline().add_stage(thing)


def test_an_object_with_process_is_a_stage():
    class Plain:
        async def process(self, context):
            context.update_metadata(plain=True)
            return context

    done = CheckpointPipeline([Plain()]).execute_sync(CheckpointContext())
    assert done.get_metadata("plain")


SOURCE, LOADER, MODIFIER = LocalSource("x"), WeightsOnlyLoader(), FreezingModifier(("a",))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([LOADER, SOURCE], r"stages\[1\] \(LocalSource\) is a source after .*Move it before stages\[0\]"),
        ([SOURCE, MODIFIER, LOADER], r"is a strategy after the modifier stages\[1\].*Move it before"),
        ([SOURCE, LOADER, TransferLearningLoader()], r"is a second strategy after stages\[1\].*Keep one"),
        (
            [SOURCE, Verify(), SOURCE, LOADER],
            r"stages\[2\].*nothing reads from stages\[0\].*list both under `fall",
        ),
    ],
)
def test_stages_out_of_order_are_refused_with_a_suggestion(stages, message):
    with pytest.raises(CheckpointConfigError, match=message):
        CheckpointPipeline(stages)


def test_a_stage_of_the_users_own_may_read_from_each_of_several_sources():
    assert len(CheckpointPipeline([SOURCE, MyLoader(), SOURCE, MyLoader()])) == 4


async def test_a_pipeline_without_stages_says_that_it_does_nothing(context, caplog):
    assert await CheckpointPipeline().execute(context) is context
    assert "the pipeline has no stages" in caplog.text


def test_a_strategy_without_a_checkpoint_is_refused(context):
    with pytest.raises(CheckpointConfigError, match="Begin the pipeline with a source such as s3"):
        CheckpointPipeline([LOADER]).execute_sync(context)


def test_a_strategy_takes_the_checkpoint_that_the_context_brings(context):
    state = torch.nn.Linear(3, 2).state_dict()
    context.checkpoint_data = {"state_dict": state}
    CheckpointPipeline([LOADER]).execute_sync(context)
    assert holds(context.model, state)


def test_a_source_that_nothing_loads_from_is_warned_about_and_refused_at_the_end(checkpoint, context, caplog):
    with pytest.raises(NoWeightsError, match="Add a strategy"):
        CheckpointPipeline([LocalSource(str(checkpoint))]).execute_sync(context)
    assert "no stage loads" in caplog.text


def test_a_modifier_does_not_count_as_loading(checkpoint, context):
    with pytest.raises(NoWeightsError):
        CheckpointPipeline([LocalSource(str(checkpoint)), FreezingModifier(("weight",))]).execute_sync(context)


def test_without_a_model_a_source_may_run_alone(checkpoint):
    done = CheckpointPipeline([LocalSource(str(checkpoint)), Verify()]).execute_sync(CheckpointContext())
    assert done.checkpoint_data["epoch"] == 4


def test_errors_of_other_kinds_name_the_stage_and_keep_their_cause(context):
    cause = ValueError("boom")
    with pytest.raises(CheckpointError, match=r"stage 2/2 \(Failing\) failed: ValueError: boom") as caught:
        CheckpointPipeline([Verify(), Failing(cause)]).execute_sync(context)
    assert caught.value.__cause__ is cause
    assert context.get_metadata("stage_1_Failing").startswith("failed: ")


def test_errors_of_ours_pass_with_a_note(context):
    context.checkpoint_data = {"state_dict": {"other": torch.ones(1)}}
    with pytest.raises(NothingMatchedError) as caught:
        CheckpointPipeline([LOADER]).execute_sync(context)
    assert caught.value.__notes__ == ["in stage 1/1 (WeightsOnlyLoader)"]


def test_a_stage_that_forgets_to_return_the_context_is_told_so(context):
    with pytest.raises(CheckpointError, match=r"\(Forgetful\) returned NoneType. End `process` with `return context`"):
        CheckpointPipeline([Forgetful()]).execute_sync(context)


def test_continue_on_error_goes_on(checkpoint, context):
    stages = [LocalSource(str(checkpoint)), Failing(ValueError("boom")), WeightsOnlyLoader()]
    done = CheckpointPipeline(stages, continue_on_error=True).execute_sync(context)
    assert done.get_metadata("stage_1_Failing").endswith("ValueError: boom")
    assert holds(done.model, expected(checkpoint))


def test_continue_on_error_never_goes_on_with_initial_weights(checkpoint):
    context = CheckpointContext(model=torch.nn.Linear(5, 5))
    with pytest.raises(NoWeightsError, match=r"no weights were applied to the model: .*do not fit"):
        CheckpointPipeline([LocalSource(str(checkpoint)), WeightsOnlyLoader()], continue_on_error=True).execute_sync(
            context
        )


class OutOfMemoryError(RuntimeError):
    """Named as torch's for devices, which are not at hand everywhere."""


class Allocating(PipelineStage):
    async def process(self, context):
        torch.empty(1 << 60)


class Wrapping(PipelineStage):
    async def process(self, context):
        try:
            raise MemoryError
        except MemoryError as error:
            raise CheckpointError("cannot go on") from error


@pytest.mark.parametrize(
    ("stage", "error"),
    [
        (Failing(MemoryError()), MemoryError),
        (Failing(OutOfMemoryError("CUDA out of memory")), OutOfMemoryError),
        (Allocating(), RuntimeError),
        (Wrapping(), CheckpointError),
    ],
)
def test_continue_on_error_never_swallows_memory_errors(checkpoint, context, stage, error):
    stages = [LocalSource(str(checkpoint)), stage, WeightsOnlyLoader()]
    with pytest.raises(error) as caught:
        CheckpointPipeline(stages, continue_on_error=True).execute_sync(context)
    assert type(caught.value) is error


def test_importing_preheat_imports_only_the_standard_library():
    script = (
        "import sys; before = set(sys.modules); import preheat, json; dir(preheat); "
        "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names))))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == ["preheat"]


def test_every_exported_name_exists():
    assert [name for name in preheat.__all__ if getattr(preheat, name) is None] == []
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        preheat.nonsense  # noqa: B018


def test_type_checkers_see_the_names_that_are_exported():
    tree = ast.parse(Path(preheat.__file__).read_text())
    shown = {
        alias.asname: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {name: module for name, module in shown.items() if name} == preheat._MODULES
