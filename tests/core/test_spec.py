"""One spec, whatever it was written in."""

from __future__ import annotations

import json

import pytest

from preheat.errors import CheckpointConfigError
from preheat.modifiers import FreezingModifier
from preheat.sources import LocalSource
from preheat.spec import PipelineSpec, parse, read, spec_of, to_mapping
from preheat.strategies import WeightsOnlyLoader
from preheat.verify import Verify

STAGES = [{"local": {"path": "/a.ckpt"}}, {"verify": {}}, {"weightsOnly": {}}, {"freezing": {"layers": ["encoder"]}}]
SPEC = PipelineSpec((LocalSource("/a.ckpt"), Verify(), WeightsOnlyLoader(), FreezingModifier(("encoder",))))
TARGETS = [
    {"_target_": "anemoi.training.checkpoint.sources.LocalSource", "path": "/a.ckpt"},
    {"_target_": "preheat.verify.Verify"},
    {"_target_": "anemoi.training.checkpoint.loaders.WeightsOnlyLoader"},
    {"_target_": "anemoi.training.checkpoint.modifiers.FreezingModifier", "layers": ["encoder"]},
]


@pytest.mark.parametrize(
    "document",
    [
        {"apiVersion": "preheat.dev/v1alpha1", "kind": "CheckpointPipeline", "spec": {"stages": STAGES}},
        {"stages": STAGES},
        {"training": {"checkpoint_pipeline": {"stages": TARGETS, "async_execution": True}}},
    ],
    ids=["resource", "bare", "anemoi"],
)
def test_every_spelling_gives_the_same_spec(document):
    assert parse(document) == SPEC


def test_settings_are_read_in_both_cases():
    camel = parse({"stages": STAGES, "maxRetries": 1, "timeoutSeconds": 5, "continueOnError": True})
    snake = parse({"stages": STAGES, "max_retries": 1, "timeout": 5, "continue_on_error": True})
    assert camel == snake
    assert camel.patience.max_retries == 1


def test_a_spec_survives_its_mapping():
    assert parse(to_mapping(SPEC)) == SPEC


def test_the_training_process_runs_strategies_and_modifiers_only():
    assert SPEC.remaining == (WeightsOnlyLoader(), FreezingModifier(("encoder",)))


@pytest.mark.parametrize("document", [{}, {"stages": []}, {"stages": "s3"}, {"spec": {}}])
def test_a_pipeline_without_stages_is_refused(document):
    with pytest.raises(CheckpointConfigError, match="no stages"):
        parse(document)


def test_a_pipeline_without_source_says_how_to_begin():
    with pytest.raises(CheckpointConfigError, match="Begin it with"):
        _ = parse({"stages": [{"weightsOnly": {}}]}).source


def test_a_wrong_stage_is_named_by_its_position():
    with pytest.raises(CheckpointConfigError, match=r"stages\[1\]\.freezing: .*list"):
        parse({"stages": [{"local": {"path": "/a"}}, {"freezing": {"layers": "encoder"}}]})


def test_a_caller_gives_whatever_describes_a_pipeline(tmp_path):
    (tmp_path / "one.yaml").write_text(json.dumps({"metadata": {"name": "two"}, "spec": {"stages": STAGES}}))
    for given in (SPEC, STAGES, {"stages": STAGES}, tmp_path / "one.yaml", str(tmp_path / "one.yaml")):
        assert spec_of(given) == SPEC
    assert read(tmp_path / "one.yaml") == ("two", SPEC)


def test_a_file_that_holds_a_wrong_pipeline_is_named(tmp_path):
    (tmp_path / "one.yaml").write_text(json.dumps({"stages": [{"locl": {}}]}))
    with pytest.raises(CheckpointConfigError, match=r"one\.yaml: .*locl"):
        spec_of(tmp_path / "one.yaml")
