"""Pipelines composed by the real Hydra from files on disk, with our class paths and with those of Anemoi's guide."""

import json
from textwrap import dedent

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import MissingMandatoryValue

from preheat import CheckpointContext, CheckpointPipeline, CheckpointPipelineConfig
from preheat.convert import Convert
from preheat.modifiers import CustomModifier, FreezingModifier
from preheat.names import Rename
from preheat.sources import LocalSource
from preheat.spelling import build, spell
from preheat.strategies import ColdStartLoader, TransferLearningLoader

OURS = """
    training:
      checkpoint_pipeline:
        _target_: preheat.CheckpointPipeline
        stages:
        - _target_: preheat.sources.LocalSource
          path: ${oc.env:PRETRAINED}
        - _target_: preheat.convert.Convert
          rename: [{pattern: ^net, replacement: encoder}]
        - _target_: preheat.strategies.TransferLearningLoader
          skip_mismatched: true
        - _target_: preheat.modifiers.FreezingModifier
          layers: ["${frozen}"]
        async_execution: false
    frozen: encoder
"""
GUIDE = """
    training:
      checkpoint_pipeline:
        stages:
        - _target_: anemoi.training.checkpoint.sources.LocalSource
          path: ${oc.env:PRETRAINED}
        - _target_: anemoi.training.checkpoint.loaders.ColdStartLoader
          strict: false
          reset_layers: [net]
        - _target_: anemoi.training.checkpoint.modifiers.FreezingModifier
          layers: [encoder]
        async_execution: false
        continue_on_error: false
"""


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "model.ckpt"
    weights = {"net.weight": torch.ones(2, 2), "head.weight": torch.ones(3, 2), "encoder.weight": torch.ones(2, 2)}
    torch.save({"state_dict": weights}, path)
    monkeypatch.setenv("PRETRAINED", str(path))
    return path


@pytest.fixture
def composed(tmp_path):
    def read(text, *overrides):
        (tmp_path / "config.yaml").write_text(dedent(text))
        with initialize_config_dir(str(tmp_path), version_base=None):
            return compose("config", list(overrides))

    return read


def model():
    linear = {"encoder": torch.nn.Linear(2, 2, bias=False), "head": torch.nn.Linear(2, 1, bias=False)}
    return torch.nn.ModuleDict(linear)


def test_hydra_instantiates_a_pipeline_of_our_classes(composed, tmp_path, monkeypatch):
    torch.save({"state_dict": {"net.weight": torch.ones(2, 2)}}, tmp_path / "model.ckpt")
    monkeypatch.setenv("PRETRAINED", str(tmp_path / "model.ckpt"))
    pipeline = instantiate(composed(OURS).training.checkpoint_pipeline)
    done = pipeline.execute(CheckpointContext(model=model()))
    assert done.model["encoder"].weight.eq(1).all()
    assert [p.requires_grad for p in done.model.parameters()] == [False, True]


def test_stages_that_hydra_puts_into_a_list_of_its_own_are_still_stages(composed):
    stages = instantiate(composed(OURS.replace("${oc.env:PRETRAINED}", "x")).training.checkpoint_pipeline.stages)
    assert [build(stage) for stage in stages] == [
        LocalSource("x"), Convert(rename=[Rename("^net", "encoder")]), TransferLearningLoader(),
        FreezingModifier(("encoder",)),
    ]  # fmt: skip


def test_a_single_stage_that_hydra_instantiates_survives_being_written_down(composed):
    stages = composed(OURS).training.checkpoint_pipeline.stages
    for stage in (instantiate(stages[1]), instantiate(stages[3]), CustomModifier("a.b", {"c": stages[3].layers})):
        assert json.loads(json.dumps(spell(build(spell(stage))))) == spell(stage)


def test_a_configuration_of_the_guide_runs_without_anemoi(checkpoint, composed):
    config = composed(GUIDE, "++training.checkpoint_pipeline.max_retries=1")
    pipeline = CheckpointPipeline.from_config(config)
    assert (pipeline.stages[1], pipeline.patience.max_retries) == (ColdStartLoader(False, ("net",)), 1)
    done = CheckpointPipeline.from_config(composed(GUIDE.replace("[net]", "[head]"))).execute(
        CheckpointContext(model=model())
    )
    assert done.model["encoder"].weight.eq(1).all()
    assert not done.model["head"].weight.eq(1).any()


MY_MODULE = """
    from preheat import CheckpointContext, PipelineStage
    import torch

    class MyLoader(PipelineStage):
        \"\"\"Custom checkpoint loader.\"\"\"

        def __init__(self, strict: bool = True):
            self.strict = strict

        async def process(self, context: CheckpointContext) -> CheckpointContext:
            if context.checkpoint_data and context.model:
                state_dict = context.checkpoint_data.get("state_dict", {})
                context.model.load_state_dict(state_dict, strict=self.strict)
                context.update_metadata(loading_strategy="custom", strict=self.strict)
            return context
"""
WITH_MY_LOADER = """
    training:
      checkpoint_pipeline:
        stages:
        - _target_: anemoi.training.checkpoint.sources.LocalSource
          path: ${oc.env:PRETRAINED}
        - _target_: my_module.MyLoader
          strict: false
        async_execution: true
"""


async def test_the_guides_custom_stage_is_used_by_its_class_path(composed, tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(dedent(MY_MODULE))
    monkeypatch.syspath_prepend(tmp_path)
    torch.save({"state_dict": {"encoder.weight": torch.ones(2, 2)}}, tmp_path / "model.ckpt")
    monkeypatch.setenv("PRETRAINED", str(tmp_path / "model.ckpt"))
    done = await CheckpointPipeline.from_config(composed(WITH_MY_LOADER)).execute(CheckpointContext(model=model()))
    assert done.model["encoder"].weight.eq(1).all()
    assert done.get_metadata("strict") is False
    assert done.get_metadata("stage_1_MyLoader") == "completed"


def test_hydra_instantiates_class_paths_of_the_guide_when_the_pipeline_builds_them(checkpoint, composed):
    here = GUIDE.replace("checkpoint_pipeline:", "checkpoint_pipeline:\n        _target_: preheat.CheckpointPipeline")
    here = here.replace("[net]", "[head]").replace("async_execution", "_recursive_: false\n        async_execution")
    done = instantiate(composed(here).training.checkpoint_pipeline).execute(CheckpointContext(model=model()))
    assert done.model["encoder"].weight.eq(1).all()


def test_the_stages_of_a_composed_configuration_are_given_as_they_are(checkpoint, composed):
    stages = composed(GUIDE).training.checkpoint_pipeline.stages
    assert CheckpointPipeline(stages).stages[2] == FreezingModifier(("encoder",))


def test_our_configuration_is_a_structured_config_of_hydra(checkpoint, tmp_path):
    ConfigStore.instance().store(name="schema", node=CheckpointPipelineConfig)
    (tmp_path / "run.yaml").write_text("defaults: [schema, _self_]\nstages: [{local: {path: x}}, {weightsOnly: {}}]\n")
    with initialize_config_dir(str(tmp_path), version_base=None):
        assert CheckpointPipeline.from_config(compose("run", ["timeout=60"])).patience.timeout_seconds == 60
        with pytest.raises(Exception, match="max_retires"):
            compose("run", ["max_retires=1"])


def test_a_value_that_is_still_missing_is_named(composed):
    with pytest.raises(MissingMandatoryValue, match=r"training\.checkpoint_pipeline\.stages\[0\]\.path"):
        CheckpointPipeline.from_config(composed(GUIDE.replace("${oc.env:PRETRAINED}", "???")))
