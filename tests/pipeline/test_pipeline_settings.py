"""Retries, time limit, cache folder and configuration of a pipeline; a real HTTP server, real checkpoints."""

import logging
import threading

import pytest
import torch
from omegaconf import OmegaConf
from pydantic import BaseModel, ValidationError
from sources.fault_server import FaultServer

from preheat import (
    CheckpointConfigError,
    CheckpointContext,
    CheckpointPipeline,
    CheckpointPipelineConfig,
    CheckpointSourceError,
)
from preheat.convert import Convert
from preheat.health import check_configuration, check_environment
from preheat.modifiers import CustomModifier, FreezingModifier
from preheat.sources import HTTPSource, LocalSource
from preheat.strategies import WarmStartLoader, WeightsOnlyLoader
from preheat.verify import Verify


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.ckpt"
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"state_dict": model.state_dict(), "epoch": 4, "optimizer_states": [optimizer.state_dict()]}
    torch.save({**state, "lr_schedulers": [], "pytorch-lightning_version": "2.6.0"}, path)
    return path


@pytest.fixture
def server():
    with FaultServer().running() as server:
        yield server


@pytest.fixture
def url(server, path):
    return server.serve("/model.ckpt", path.read_bytes())


def expected(path):
    return torch.load(path, weights_only=True)["state_dict"]


def holds(model, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def context():
    return CheckpointContext(model=torch.nn.Linear(3, 2))


def test_a_source_is_tried_as_often_as_max_retries_says(server, url):
    server.always(status=503)
    pipeline = CheckpointPipeline([HTTPSource(url), WeightsOnlyLoader()], max_retries=0)
    with pytest.raises(CheckpointSourceError, match="503"):
        pipeline.execute_sync(context())
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_retries": 11}, "max_retries: 11 is above the maximum 10"),
        ({"max_retries": "3"}, "max_retries: '3' is not a number"),
        ({"timeout": 0}, "timeout: 0 is below the minimum 1"),
        ({"timeout": True}, "timeout: True is not a number"),
        ({"async_execution": "no"}, "async_execution: 'no' is neither true nor false"),
    ],
)
def test_a_setting_out_of_bounds_is_refused(settings, words):
    with pytest.raises(CheckpointConfigError, match=words):
        CheckpointPipeline([], **settings)


def test_what_a_remote_source_gave_is_kept_and_found_again(server, url, path, tmp_path):
    stages = [HTTPSource(url), Verify(), WeightsOnlyLoader(), FreezingModifier(("bias",))]
    first = CheckpointPipeline(stages, cache_dir=tmp_path / "cache").execute_sync(context())
    assert holds(first.model, expected(path))
    assert (first.checkpoint_format, first.checkpoint_data["epoch"]) == ("lightning", 4)
    assert first.get_metadata("source_uri") == url
    assert first.get_metadata("bundle_reused") is False
    assert [first.get_metadata(f"stage_{i}_{type(s).__name__}") for i, s in enumerate(stages)] == ["completed"] * 4
    asked = len(server.requests)
    again = CheckpointPipeline(stages, cache_dir=str(tmp_path / "cache")).execute_sync(context())
    assert holds(again.model, expected(path))
    assert again.get_metadata("bundle_reused") is True
    assert len(server.requests) == asked + 1


def test_another_strategy_finds_the_same_bundle_and_a_warm_start_makes_one_with_more(url, tmp_path):
    def bundle(*stages, **given):
        done = CheckpointPipeline([HTTPSource(url), *stages], cache_dir=tmp_path / "cache").execute_sync(
            CheckpointContext(model=torch.nn.Linear(3, 2), **given)
        )
        return done.get_metadata("bundle")

    weights = bundle(WeightsOnlyLoader())
    assert bundle(WeightsOnlyLoader(strict=False), FreezingModifier(("bias",))) == weights
    model = torch.nn.Linear(3, 2)
    context = CheckpointContext(model=model, optimizer=torch.optim.AdamW(model.parameters()))
    stages = [HTTPSource(url), WarmStartLoader()]
    done = CheckpointPipeline(stages, cache_dir=tmp_path / "cache").execute_sync(context)
    assert done.get_metadata("bundle") != weights
    assert context.optimizer.state_dict()["state"][0]["step"] == 1


def test_averaged_weights_are_kept_beside_the_raw_ones(server, path, tmp_path):
    saved = torch.load(path, weights_only=True)
    average = {name: tensor + 1 for name, tensor in saved["state_dict"].items()}
    torch.save({**saved, "model_ema": average}, path)
    url = server.serve("/averaged.ckpt", path.read_bytes())
    for loader, wanted in ((WeightsOnlyLoader(), saved["state_dict"]), (WeightsOnlyLoader(ema="auto"), average)):
        for reused in (False, True):
            pipeline = CheckpointPipeline([HTTPSource(url), loader], cache_dir=tmp_path / "cache")
            done = pipeline.execute_sync(context())
            assert holds(done.model, wanted)
            assert done.get_metadata("bundle_reused") is reused


def test_a_conversion_is_done_once_in_the_cache(server, url, path, tmp_path):
    stages = [HTTPSource(url), Convert(exclude=["bias"]), WeightsOnlyLoader(strict=False)]
    done = CheckpointPipeline(stages, cache_dir=tmp_path / "cache").execute_sync(context())
    assert list(done.checkpoint_data["state_dict"]) == ["weight"]
    assert torch.equal(done.model.weight, expected(path)["weight"])


def test_a_local_source_is_read_where_it_is(path, tmp_path):
    stages = [LocalSource(str(path)), WeightsOnlyLoader()]
    CheckpointPipeline(stages, cache_dir=tmp_path / "cache").execute_sync(context())
    assert not (tmp_path / "cache").exists()


def test_two_pipelines_of_one_process_share_a_bundle(server, url, path, tmp_path):
    done = []

    def run():
        stages = [HTTPSource(url), WeightsOnlyLoader()]
        done.append(CheckpointPipeline(stages, cache_dir=tmp_path / "cache").execute_sync(context()))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(holds(each.model, expected(path)) for each in done)
    assert sorted(each.get_metadata("bundle_reused") for each in done) == [False, True, True]


def test_a_cache_folder_that_is_a_file_is_refused_before_anything_is_read(path, server, url):
    pipeline = CheckpointPipeline([HTTPSource(url), WeightsOnlyLoader()], cache_dir=path)
    with pytest.raises(CheckpointConfigError, match="is no folder"):
        pipeline.execute_sync(context())
    assert server.requests == []


STAGES = [{"local": {"path": "model.ckpt"}}, {"weightsOnly": {"strict": False}}]


@pytest.mark.parametrize(
    "config",
    [
        {"stages": STAGES, "max_retries": 1, "timeout": 60},
        {"training": {"checkpoint_pipeline": {"stages": STAGES, "max_retries": 1, "timeout": 60}}},
        {"apiVersion": "preheat.dev/v1alpha1", "spec": {"stages": STAGES, "maxRetries": 1, "timeoutSeconds": 60}},
        CheckpointPipelineConfig(STAGES, max_retries=1, timeout=60),
    ],
)
def test_every_spelling_of_a_configuration_builds_the_same_pipeline(config):
    pipeline = CheckpointPipeline.from_config(config)
    assert pipeline.stages == [LocalSource("model.ckpt"), WeightsOnlyLoader(strict=False)]
    assert (pipeline.patience.max_retries, pipeline.patience.timeout_seconds) == (1, 60)


def test_an_unknown_setting_is_refused_with_the_nearest():
    with pytest.raises(CheckpointConfigError, match=r"'max_retires'; did you mean 'max_retries'\?"):
        CheckpointPipeline.from_config({"stages": STAGES, "max_retires": 1})


@pytest.mark.parametrize("config", [None, "finetune", [1]])
def test_what_is_no_mapping_is_no_configuration(config):
    with pytest.raises(CheckpointConfigError, match="is not a configuration"):
        CheckpointPipeline.from_config(config)


def test_a_pydantic_model_may_hold_the_configuration():
    class Training(BaseModel):
        checkpoint_pipeline: CheckpointPipelineConfig = CheckpointPipelineConfig()

    settings = Training.model_validate({"checkpoint_pipeline": {"stages": STAGES, "timeout": "60", "cache_dir": "c"}})
    assert CheckpointPipeline.from_config(settings.checkpoint_pipeline).patience.timeout_seconds == 60
    assert settings.model_dump()["checkpoint_pipeline"]["stages"] == STAGES
    assert "timeout" in str(Training.model_json_schema())
    with pytest.raises(ValidationError, match=r"checkpoint_pipeline.stages"):
        Training.model_validate({"checkpoint_pipeline": {"stages": 3}})
    with pytest.raises(CheckpointConfigError, match="max_retries: 99 is above the maximum 10"):
        Training.model_validate({"checkpoint_pipeline": {"max_retries": 99}})


def test_legacy_settings_of_the_programs_own_configuration_are_answered_with_the_stage(path, caplog):
    config = {"training": {"submodules_to_freeze": ["encoder"], "load_weights_only": True, "transfer_learning": False}}
    done = CheckpointPipeline([LocalSource(str(path)), WeightsOnlyLoader()]).execute_sync(
        CheckpointContext(model=torch.nn.Linear(3, 2), config=config)
    )
    assert "training.submodules_to_freeze" in caplog.text
    assert "add `freezing: {layers: [...]}`" in caplog.text
    assert "load_weights_only" not in caplog.text
    assert done.get_metadata("validation_config_status") == "warning"
    assert done.get_metadata("validation_environment_status") == "ok"
    assert done.get_metadata("validation_performed") is True


def test_settings_that_cannot_be_read_are_passed_over():
    config = OmegaConf.create({"training": {"load_weights_only": "???", "submodules_to_freeze": "${nothing}"}})
    assert check_configuration(config, []).status == "ok"


def test_a_strategy_of_somebody_elses_may_do_without_torch(monkeypatch):
    class Mine(WeightsOnlyLoader):
        pass

    monkeypatch.setattr("preheat.health._importable", lambda module: False)
    assert check_environment([Mine(), CustomModifier("a.B")]).status == "ok"
    assert check_environment([WeightsOnlyLoader()]).status == "error"


def test_a_library_that_is_missing_is_named_before_anything_is_read(server, url, monkeypatch):
    monkeypatch.setattr("preheat.health._importable", lambda module: module != "torch")
    with pytest.raises(CheckpointConfigError, match=r"WeightsOnlyLoader needs torch: pip install preheat\[torch\]"):
        CheckpointPipeline([HTTPSource(url), WeightsOnlyLoader()]).execute_sync(context())
    assert server.requests == []


def test_a_healthy_run_says_so(path):
    done = CheckpointPipeline([LocalSource(str(path)), WeightsOnlyLoader()]).execute_sync(context())
    assert done.get_metadata("validation_health_status") == "ok"


def test_a_model_with_nothing_left_to_train_is_told_of(path, caplog):
    stages = [LocalSource(str(path)), WeightsOnlyLoader(), FreezingModifier(("weight", "bias"))]
    done = CheckpointPipeline(stages).execute_sync(context())
    assert done.get_metadata("validation_health_status") == "warning"
    assert "nothing is left to train" in caplog.text


def test_a_stage_that_was_passed_over_shows_in_the_health(path, caplog):
    caplog.set_level(logging.WARNING)
    stages = [LocalSource(str(path)), WeightsOnlyLoader(), FreezingModifier(("nothing",))]
    done = CheckpointPipeline(stages, continue_on_error=True).execute_sync(context())
    assert done.get_metadata("validation_health_status") == "error"
    assert "after the run: FreezingModifier failed:" in caplog.text
