"""Rules that hold however a pipeline is put together, run, or passed over: each refusal with its way out."""

import asyncio

import pytest
import torch

from preheat import CheckpointContext, CheckpointPipeline
from preheat.errors import CheckpointConfigError, CheckpointError, NothingMatchedError, NoWeightsError
from preheat.stage import PipelineStage

SOURCE, CONVERT, LOADER, MODIFIER = (
    {"local": {"path": "x"}}, {"convert": {"exclude": ["a"]}}, {"weightsOnly": {}}, {"freezing": {"layers": ["a"]}},
)  # fmt: skip
RULES = [
    ([LOADER], SOURCE, "is a source after the strategy", "Move it before stages[0]"),
    ([SOURCE, CONVERT], SOURCE, "is a source after stages[1] (Convert)", "Move it before stages[1]"),
    ([SOURCE], SOURCE, "is a second source, and nothing reads from stages[0]", "list both under `fallback`"),
    ([SOURCE, LOADER], CONVERT, "comes after the strategy stages[1]", "Move it before stages[1]"),
    ([SOURCE, CONVERT], CONVERT, "is a second convert after stages[1]", "Make one stage of them"),
    ([SOURCE, LOADER], {"transferLearning": {}}, "is a second strategy after stages[1]", "the second would undo the"),
    ([SOURCE, MODIFIER], LOADER, "is a strategy after the modifier stages[1]", "Move it before stages[1]"),
]


class Doing(PipelineStage):
    """Does what it is given."""

    def __init__(self, work=lambda context: None):
        self.work = work

    async def process(self, context):
        self.work(context)
        return context


@pytest.fixture
def path(tmp_path):
    torch.save({"state_dict": torch.nn.Linear(2, 2).state_dict()}, tmp_path / "a.ckpt")
    return str(tmp_path / "a.ckpt")


@pytest.fixture
def context():
    return CheckpointContext(model=torch.nn.Linear(2, 2))


def raising(error):
    def work(context):
        raise error

    return Doing(work)


@pytest.mark.parametrize(("stages", "another", "rule", "suggestion"), RULES)
def test_each_rule_of_composition_comes_with_its_suggestion(stages, another, rule, suggestion):
    with pytest.raises(CheckpointConfigError) as caught:
        CheckpointPipeline([*stages, another])
    assert rule in str(caught.value)
    assert suggestion in str(caught.value)


@pytest.mark.parametrize(("stages", "another", "rule", "suggestion"), RULES)
def test_a_stage_that_does_not_belong_there_is_not_added(stages, another, rule, suggestion):
    pipeline = CheckpointPipeline(stages)
    before = list(pipeline.stages)
    with pytest.raises(CheckpointConfigError):
        pipeline.add_stage(another)
    assert pipeline.stages == before


def test_a_strategy_whose_source_was_removed_is_refused_when_it_runs(path, context):
    pipeline = CheckpointPipeline([{"local": {"path": path}}, LOADER], async_execution=False)
    pipeline.remove_stage(pipeline.stages[0])
    with pytest.raises(CheckpointConfigError, match=r"has no checkpoint to load.*Begin the pipeline with a source"):
        pipeline.execute(context)


def test_a_pipeline_that_was_cleared_is_filled_anew(path, context):
    pipeline = CheckpointPipeline([SOURCE, LOADER], async_execution=False)
    pipeline.clear_stages()
    pipeline.add_stage({"local": {"path": path}})
    pipeline.add_stage({"weightsOnly": {}})
    assert pipeline.execute(context).get_metadata("loading_strategy") == "weights_only"


@pytest.mark.parametrize("going_on", [False, True], ids=["raising", "going on"])
@pytest.mark.parametrize("stages", [
    [], [MODIFIER | {"freezing": {"layers": ["weight"]}}], [Doing()],
    [{"transferLearning": {}, }],
], ids=["nothing after it", "a modifier", "a stage that does nothing", "a strategy that matches nothing"])  # fmt: skip
def test_a_source_whose_weights_reach_nothing_is_fatal_whatever_is_passed_over(path, stages, going_on):
    model = torch.nn.ModuleDict({"other": torch.nn.Linear(3, 3), "weight": torch.nn.Linear(1, 1)})
    pipeline = CheckpointPipeline([{"local": {"path": path}}, *stages], continue_on_error=going_on)
    with pytest.raises((NoWeightsError, NothingMatchedError)) as caught:
        pipeline.execute_sync(CheckpointContext(model=model))
    assert isinstance(caught.value, NoWeightsError) or not going_on


@pytest.mark.parametrize("going_on", [False, True], ids=["raising", "going on"])
@pytest.mark.parametrize("error", [MemoryError("no more"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_a_lack_of_memory_and_a_wish_to_stop_pass_as_they_are(path, context, error, going_on):
    stages = [{"local": {"path": path}}, LOADER, raising(error)]
    with pytest.raises(type(error)) as caught:
        CheckpointPipeline(stages, continue_on_error=going_on).execute_sync(context)
    assert caught.value is error


async def test_being_cancelled_is_no_error_to_pass_over(path, context):
    started = asyncio.Event()

    class Waiting(PipelineStage):
        async def process(self, context):
            started.set()
            await asyncio.Event().wait()

    stages = [{"local": {"path": path}}, LOADER, Waiting()]
    task = asyncio.create_task(CheckpointPipeline(stages, continue_on_error=True).execute(context))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_in_a_notebook_both_ways_of_running_give_the_context(path, context):
    stages = [{"local": {"path": path}}, LOADER]
    assert await CheckpointPipeline(stages).execute(context) is context
    again = CheckpointContext(model=torch.nn.Linear(2, 2))
    assert CheckpointPipeline(stages, async_execution=False).execute(again) is again
    assert torch.equal(again.model.weight, context.model.weight)


async def test_in_a_notebook_an_error_is_raised_where_the_cell_is(context):
    with pytest.raises(CheckpointError, match="boom"):
        CheckpointPipeline([raising(ValueError("boom"))], async_execution=False).execute(context)
    assert asyncio.get_running_loop().is_running()


def test_what_a_resource_says_of_trainings_is_not_about_a_pipeline_that_is_run_here(context):
    resource = {"spec": {"stages": [{"local": {"path": "gone.ckpt"}}, LOADER], "onFailure": "Continue"}}
    with pytest.raises(CheckpointError, match=r"gone\.ckpt"):
        CheckpointPipeline.from_config(resource).execute_sync(context)
