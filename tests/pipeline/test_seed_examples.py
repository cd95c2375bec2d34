"""Every example of the documents that Preheat was asked to implement, with our class paths and with Anemoi's.

`EXAMPLES` says which test does which example.
"""

from __future__ import annotations

import ast
import logging
import math
import pickle
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from pydantic import BaseModel, Field
from safetensors.torch import save_file
from sources import s3_server
from sources.fault_server import FaultServer

import preheat
from preheat import (
    CheckpointConfigError,
    CheckpointContext,
    CheckpointError,
    CheckpointIncompatibleError,
    CheckpointLoadError,
    CheckpointNotFoundError,
    CheckpointPipeline,
    ComponentCatalog,
    PipelineStage,
)

GUIDE, REQUEST, LINNAEUS, NOETHER, STACKWISE = "Anemoi's guide", "Anemoi's request", "linnaeus", "Noether", "Stack-Wise"

EXAMPLES = {
    (GUIDE, "basic structure"): "test_a_configuration_of_own_classes_with_its_settings_runs",
    (GUIDE, "local files"): "test_a_local_file_is_loaded",
    (GUIDE, "Amazon S3"): "test_an_object_in_s3_is_loaded",
    (GUIDE, "HTTP"): "test_a_url_is_loaded",
    (GUIDE, "weights only"): "test_weights_only_leaves_training_state_behind",
    (GUIDE, "transfer learning"): "test_transfer_learning_skips_what_does_not_fit",
    (GUIDE, "warm start"): "test_warm_start_restores_everything",
    (GUIDE, "cold start"): "test_cold_start_leaves_the_classifier_new",
    (GUIDE, "parameter freezing"): "test_freezing_takes_dotted_paths",
    (GUIDE, "simple pipeline"): "test_a_configuration_of_own_classes_with_its_settings_runs",
    (GUIDE, "custom stage"): "test_a_configuration_of_own_classes_with_its_settings_runs",
    (GUIDE, "migration"): "test_each_legacy_setting_is_answered_with_its_stage",
    (GUIDE, "caching, timeouts, retries"): "pipeline/test_pipeline_settings.py",
    (GUIDE, "debug logging, and the device in it"): "test_debug_logging_tells_what_each_stage_does",
    (GUIDE, "composition"): "test_a_well_composed_pipeline_runs_and_others_are_refused",
    (REQUEST, "pipeline pattern"): "test_stages_given_as_objects_are_awaited",
    (REQUEST, "component catalog"): "test_the_catalog_lists_what_a_configuration_may_name",
    (REQUEST, "components that nobody registers by hand"):
        "core/test_catalog.py::test_a_component_of_another_package_is_known_in_its_family",
    (REQUEST, "suggestions for names"):
        "core/test_catalog.py::test_an_unknown_component_lists_the_known_ones_and_the_nearest",
    (REQUEST, "libraries that are missing"):
        "pipeline/test_pipeline_settings.py::test_a_library_that_is_missing_is_named_before_anything_is_read",
    (REQUEST, "context"): "test_a_context_says_what_it_has_and_what_a_stage_lacks",
    (REQUEST, "validation before a run and after"): "pipeline/test_pipeline_settings.py::test_a_healthy_run_says_so",
    (REQUEST, "formats"): "test_every_format_is_detected_loaded_and_converted",
    (REQUEST, "utilities"): "inspection/test_legacy.py",
    (REQUEST, "errors"): "test_errors_are_caught_by_their_kind",
    (REQUEST, "async and sync"): "test_without_async_execution_the_context_is_returned",
    (REQUEST, "integration points"): "test_stages_of_three_layers_written_by_users_work_together",
    (REQUEST, "configuration schema"): "test_the_schema_of_the_configuration_is_the_one_that_was_planned",
    (REQUEST, "stage management, metadata, validation"): "pipeline/test_pipeline.py",
    (REQUEST, "orchestration by a Lightning callback"): "shim/test_training_process.py",
    (REQUEST, "templates"): "pipeline/test_templates.py",
    (LINNAEUS, "pretrained"): "test_a_pretrained_file_with_a_wrappers_prefix_is_loaded",
    (LINNAEUS, "pretrained hybrids"): "test_two_checkpoints_fill_the_halves_of_one_model",
    (LINNAEUS, "resuming"): "test_a_training_of_plain_torch_is_resumed",
    (LINNAEUS, "resolution process"): "test_a_cached_file_comes_before_the_bucket",
    (NOETHER, "initializing weights"): "test_weights_are_initialized_from_a_previous_run",
    (STACKWISE, "restoring training state"): "test_a_training_of_plain_torch_is_resumed",
    (STACKWISE, "checkpoint contents"): "test_every_format_is_detected_loaded_and_converted",
    (STACKWISE, "precision-aware checkpointing"): "test_a_precision_of_each_part_outlasts_saving_and_loading",
    (STACKWISE, "LoRA adapter checkpointing"): "test_adapters_are_saved_and_restored_with_the_weights",
    (GUIDE, "adapters"): "test_adapters_are_saved_and_restored_with_the_weights",
    (LINNAEUS, "configuration, names, cache, bucket, resolution API"): "legacy/test_linnaeus_guide.py",
    (LINNAEUS, "hybrids stitched of two models"): "legacy/test_linnaeus_stitching.py",
    (LINNAEUS, "automatic resume"): "resume/test_resume_loader.py",
    (LINNAEUS, "upload"): "legacy/test_linnaeus_guide.py::test_a_checkpoint_is_sent_by_hand_and_found_by_its_name",
    (LINNAEUS, "a file of its own for each download"):
        "sources/test_named.py::test_whoever_looks_while_others_fetch_sees_a_whole_file_or_none",
    (LINNAEUS, "credentials of the environment"): "sources/test_s3_identity.py",
    (LINNAEUS, "without access to a cloud"):
        "sources/test_named.py::test_with_the_bucket_off_an_unknown_name_is_an_error",
    (NOETHER, "file names"): "runs/test_names.py",
    (NOETHER, "storage location, with and without a stage"):
        "runs/test_run_source.py::test_noethers_weights_are_found_by_what_its_document_says",
    (NOETHER, "optimizer, callbacks and progress of a training"):
        "runs/test_run_source.py::test_noethers_training_goes_on_from_the_newest_that_has_its_optimizer",
    (NOETHER, "resuming, by epoch, update or sample"): "migrate/test_same_job.py",
    (STACKWISE, "saving, listing, cleanup, racks, stacks, activation caches"): "legacy/test_stackwise_guide.py",
    (STACKWISE, "retention"): "runs/test_retention.py",
    (STACKWISE, "regular checkpoints"): "saving/test_save.py::test_a_training_goes_on_as_if_it_had_never_stopped",
    (STACKWISE, "a save that fails, and a folder that cannot be written to"):
        "saving/test_save.py::test_what_cannot_be_saved_is_named_and_leaves_nothing",
    (STACKWISE, "validation, a checkpoint that is not found"):
        "legacy/test_stackwise_guide.py::test_a_file_that_is_not_there_is_an_error_that_says_what_is",
    (STACKWISE, "debug information"):
        "legacy/test_stackwise_guide.py::test_what_is_beside_the_weights_can_be_looked_at",
}  # fmt: skip

#: The packages of the examples, as their authors call them and as we do.
FAMILIES = {
    "anemoi": partial("anemoi.training.checkpoint.{}".format),
    "ours": lambda path: f"preheat.{path.replace('loaders.', 'strategies.')}",
}


@pytest.fixture(params=list(FAMILIES))
def target(request: Any) -> Callable[..., dict[str, Any]]:
    """A stage of an example: `target("loaders.WeightsOnlyLoader", strict=False)`."""

    def stage(path: str, /, **given: Any) -> dict[str, Any]:
        return {"_target_": FAMILIES[request.param](path), **given}

    return stage


def network(classes: int = 3) -> torch.nn.ModuleDict:
    """The parts that the examples name."""
    return torch.nn.ModuleDict({
        "encoder": torch.nn.Linear(4, 4),
        "processor": torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)),
        "classifier": torch.nn.Linear(4, classes),
    })  # fmt: skip


class Training:
    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = network()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)

    def step(self) -> float:
        loss = sum(part(torch.ones(2, 4)).square().mean() for part in self.model.values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return float(loss.detach())

    @property
    def context(self) -> CheckpointContext:
        return CheckpointContext(model=self.model, optimizer=self.optimizer, scheduler=self.scheduler)


@pytest.fixture
def training() -> Training:
    halfway = Training(seed=1)
    halfway.step()
    return halfway


@pytest.fixture
def file(training: Training, tmp_path: Path) -> Path:
    """What Lightning saves."""
    path = tmp_path / "model-v1.ckpt"
    torch.save(
        {
            "state_dict": training.model.state_dict(), "epoch": 7, "global_step": 90, "callbacks": {}, "loops": {},
            "optimizer_states": [training.optimizer.state_dict()], "lr_schedulers": [training.scheduler.state_dict()],
            "pytorch-lightning_version": "2.6.0",
        },
        path,
    )  # fmt: skip
    return path


def run(stages: list[Any], context: CheckpointContext | None = None, **settings: Any) -> CheckpointContext:
    """The stages as the examples give them: within `training.checkpoint_pipeline` of a configuration of Hydra's."""
    config = OmegaConf.create({"training": {"checkpoint_pipeline": {"stages": stages, **settings}}})
    given = context or CheckpointContext(model=network())
    return CheckpointPipeline.from_config(config).execute_sync(given)


def same(model: torch.nn.Module, other: torch.nn.Module, part: str = "") -> bool:
    expected = other.state_dict()
    return all(torch.equal(t, expected[name]) for name, t in model.state_dict().items() if name.startswith(part))


def test_a_local_file_is_loaded(target: Any, file: Path, training: Training) -> None:
    done = run([target("sources.LocalSource", path=str(file)), target("loaders.WeightsOnlyLoader")])
    assert same(done.model, training.model)


@pytest.mark.skipif(s3_server.executable() is None, reason="versitygw is not built; `make test` builds it")
def test_an_object_in_s3_is_loaded(
    target: Any, file: Path, training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET_KEY)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    (tmp_path / "s3").mkdir()
    with s3_server.running(tmp_path / "s3") as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        client = s3_server.client(endpoint)
        client.create_bucket(Bucket="my-models")
        client.upload_file(str(file), "my-models", "checkpoints/model-v1.ckpt")
        place = {"bucket": "my-models", "key": "checkpoints/model-v1.ckpt", "region": "us-east-1"}
        done = run([target("sources.S3Source", **place), target("loaders.WeightsOnlyLoader")])
        done.checkpoint_data.close()
    assert same(done.model, training.model)


def test_a_url_is_loaded(target: Any, file: Path, training: Training) -> None:
    with FaultServer().running() as server:
        url = server.serve("/checkpoint.ckpt", file.read_bytes())
        done = run([target("sources.HTTPSource", url=url), target("loaders.WeightsOnlyLoader")])
        done.checkpoint_data.close()
    assert same(done.model, training.model)


def test_weights_only_leaves_training_state_behind(target: Any, file: Path, training: Training) -> None:
    stages = [target("sources.LocalSource", path=str(file)), target("loaders.WeightsOnlyLoader", strict=False)]
    done = run(stages, Training(seed=2).context)
    assert same(done.model, training.model)
    assert (done.optimizer, done.scheduler, done.get_metadata("epoch")) == (None, None, None)
    assert done.get_metadata("loading_strategy") == "weights_only"


def test_transfer_learning_skips_what_does_not_fit(target: Any, file: Path, training: Training) -> None:
    loader = target("loaders.TransferLearningLoader", strict=False, skip_mismatched=True)
    done = run([target("sources.LocalSource", path=str(file)), loader], CheckpointContext(model=network(classes=10)))
    assert same(done.model, training.model, "encoder")
    assert same(done.model, training.model, "processor")
    assert sorted(done.get_metadata("skipped_params")) == ["classifier.bias", "classifier.weight"]
    assert len(done.get_metadata("transferred_params")) == 6


def test_warm_start_restores_everything(target: Any, file: Path, training: Training) -> None:
    resumed = Training(seed=2)
    stages = [target("sources.LocalSource", path=str(file)), target("loaders.WarmStartLoader")]
    done = run(stages, resumed.context)
    assert (done.get_metadata("epoch"), done.get_metadata("global_step")) == (7, 90)
    assert [resumed.step() for _ in range(3)] == [training.step() for _ in range(3)]


def test_cold_start_leaves_the_classifier_new(target: Any, file: Path, training: Training) -> None:
    model = network(classes=10)
    initial = model["classifier"].weight.clone()
    loader = target("loaders.ColdStartLoader", strict=False, reset_layers=["classifier"])
    done = run([target("sources.LocalSource", path=str(file)), loader], CheckpointContext(model=model))
    assert same(done.model, training.model, "encoder")
    assert torch.equal(model["classifier"].weight, initial)
    assert (done.get_metadata("epoch"), done.get_metadata("global_step")) == (0, 0)
    assert done.get_metadata("pretrained_from") == str(file)


def test_freezing_takes_dotted_paths(target: Any, file: Path) -> None:
    freezing = target("modifiers.FreezingModifier", layers=["encoder", "processor.0"])
    done = run([target("sources.LocalSource", path=str(file)), target("loaders.WeightsOnlyLoader"), freezing])
    trainable = {name for name, parameter in done.model.named_parameters() if parameter.requires_grad}
    assert {name.rpartition(".")[0] for name in trainable} == {"processor.1", "classifier"}


OWN = """
    from {package} import PipelineStage, CheckpointContext
    import torch

    class MySource(PipelineStage):
        def __init__(self, path):
            self.path = path

        async def process(self, context: CheckpointContext) -> CheckpointContext:
            context.checkpoint_data = torch.load(self.path, weights_only=True)
            return context

    class MyLoader(PipelineStage):
        def __init__(self, strict: bool = True):
            self.strict = strict

        async def process(self, context: CheckpointContext) -> CheckpointContext:
            if context.checkpoint_data and context.model:
                weights = context.checkpoint_data.get("state_dict", {{}})
                context.model.load_state_dict(weights, strict=self.strict)
                context.update_metadata(loading_strategy="custom", strict=self.strict)
            return context

    class MyFreezing(PipelineStage):
        def __init__(self, layers):
            self.layers = layers

        async def process(self, context: CheckpointContext) -> CheckpointContext:
            for layer in self.layers:
                context.model[layer].requires_grad_(False)
            return context
"""


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of modules that are forgotten in the end, as are those of Anemoi, which is not installed."""
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    before, finders = set(sys.modules), sys.meta_path[:]
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.meta_path[:] = finders
    for name in set(sys.modules) - before:
        if name.startswith(("my_", "anemoi")):
            del sys.modules[name]


@pytest.fixture(params=["anemoi.training.checkpoint", "preheat"])
def my_module(request: Any, importable: Path) -> str:
    """A module of the user's own, written after Anemoi's guide, or after ours."""
    (importable / "my_module.py").write_text(dedent(OWN.format(package=request.param)))
    return "my_module"


def test_a_configuration_of_own_classes_with_its_settings_runs(my_module: str, file: Path, training: Training) -> None:
    stages = [
        {"_target_": f"{my_module}.MySource", "path": str(file)},
        {"_target_": f"{my_module}.MyLoader", "strict": False},
    ]
    done = run(stages, async_execution=True, continue_on_error=False)
    assert same(done.model, training.model)
    assert (done.get_metadata("loading_strategy"), done.get_metadata("strict")) == ("custom", False)
    assert done.get_metadata("stage_1_MyLoader") == "completed"


def test_stages_of_three_layers_written_by_users_work_together(
    my_module: str, target: Any, file: Path, training: Training
) -> None:
    own = [{"_target_": f"{my_module}.MyLoader"}, {"_target_": f"{my_module}.MyFreezing", "layers": ["encoder"]}]
    done = run([target("sources.LocalSource", path=str(file)), *own])
    assert same(done.model, training.model)
    assert not done.model["encoder"].weight.requires_grad


def test_modules_of_the_guide_hold_our_names_and_no_others(my_module: str) -> None:
    CheckpointPipeline([{"_target_": f"{my_module}.MyLoader"}])
    if "anemoi" not in sys.modules:
        with pytest.raises(ModuleNotFoundError):
            import anemoi.training.checkpoint
        return
    from anemoi.training.checkpoint.exceptions import CheckpointConfigError as TheSame
    from anemoi.training.checkpoint.loaders import ColdStartLoader

    assert (TheSame, ColdStartLoader) == (CheckpointConfigError, preheat.strategies.ColdStartLoader)
    with pytest.raises(ImportError, match="Nonsense"):
        from anemoi.training.checkpoint import Nonsense  # noqa: F401
    with pytest.raises(ModuleNotFoundError):
        import anemoi.models  # noqa: F401


def test_what_else_of_anemoi_is_missing_stays_missing(importable: Path) -> None:
    (importable / "my_graphs.py").write_text("import anemoi.graphs\n")
    with pytest.raises(CheckpointConfigError, match=r"cannot import my_graphs\.Loader: .*'anemoi\.graphs'"):
        CheckpointPipeline([{"_target_": "my_graphs.Loader"}])


@pytest.mark.parametrize(
    ("setting", "value", "stage"),
    [
        ("load_weights_only", True, "weightsOnly: {}"),
        ("transfer_learning", True, "transferLearning: {}"),
        ("resume_from_checkpoint", "last.ckpt", "warmStart: {}"),
        ("submodules_to_freeze", ["encoder"], "freezing: {layers: [...]}"),
    ],
)
def test_each_legacy_setting_is_answered_with_its_stage(
    setting: str, value: Any, stage: str, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = CheckpointContext(model=network(), config=OmegaConf.create({"training": {setting: value}}))
    run([{"local": {"path": str(file)}}, {"coldStart": {}}], context)
    assert f"training.{setting}" in caplog.text
    assert f"add `{stage}`" in caplog.text


def test_debug_logging_tells_what_each_stage_does(target: Any, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("preheat").setLevel(logging.DEBUG)
    run([target("sources.LocalSource", path=str(file)), target("loaders.WeightsOnlyLoader")])
    assert "stage 1/2 (LocalSource) begins" in caplog.text
    assert "filling 8 tensors on cpu" in caplog.text
    assert "stage 2/2 (WeightsOnlyLoader) ended after" in caplog.text


@pytest.mark.parametrize(
    ("order", "refusal"),
    [
        ("slm", None),
        ("lsm", "Move it before"),
        ("sml", "Move it before"),
        ("sllm", "the second would undo the first"),
        ("lm", "Begin the pipeline with a source"),
    ],
)
def test_a_well_composed_pipeline_runs_and_others_are_refused(
    target: Any, file: Path, order: str, refusal: str | None
) -> None:
    stages = {
        "s": target("sources.LocalSource", path=str(file)),
        "l": target("loaders.WeightsOnlyLoader", strict=False),
        "m": target("modifiers.FreezingModifier", layers=["encoder"]),
    }
    chosen = [stages[letter] for letter in order]
    if refusal is None:
        assert not run(chosen).model["encoder"].weight.requires_grad
        return
    with pytest.raises(CheckpointConfigError, match=refusal):
        run(chosen)


async def test_stages_given_as_objects_are_awaited(file: Path, training: Training) -> None:
    from preheat.modifiers import FreezingModifier
    from preheat.sources import LocalSource
    from preheat.strategies import WeightsOnlyLoader

    stages: list[PipelineStage] = [LocalSource(str(file)), WeightsOnlyLoader(), FreezingModifier(("encoder",))]
    pipeline = CheckpointPipeline(stages=stages, async_execution=True)
    context = await pipeline.execute(CheckpointContext(model=network()))
    assert same(context.model, training.model)


def test_a_context_says_what_it_has_and_what_a_stage_lacks() -> None:
    context = CheckpointContext(model=network(), checkpoint_data={})
    assert not context.has_checkpoint_data(), "an empty mapping is no data"
    with pytest.raises(CheckpointError, match=r"MyLoader needs optimizer, scheduler in the context"):
        context.validate_for_stage("MyLoader", ["model", "optimizer", "scheduler"])
    context.update_metadata(epoch=1, note="a")
    context.update_metadata(epoch=2)
    assert (context.get_metadata("epoch"), context.get_metadata("note"), context.get_metadata("no", 3)) == (2, "a", 3)
    assert repr(context) == "CheckpointContext(model, metadata, patience)"


def test_without_async_execution_the_context_is_returned(target: Any, file: Path, training: Training) -> None:
    stages = [target("sources.LocalSource", path=str(file)), target("loaders.WeightsOnlyLoader")]
    context = CheckpointPipeline(stages, async_execution=False).execute(CheckpointContext(model=network()))
    assert same(context.model, training.model)


def test_the_catalog_lists_what_a_configuration_may_name() -> None:
    assert {"s3", "http", "local"} <= set(ComponentCatalog.list_sources())
    assert {"weights_only", "transfer_learning", "warm_start", "cold_start"} == set(ComponentCatalog.list_loaders())
    assert "freezing" in ComponentCatalog.list_modifiers()
    assert ComponentCatalog.get_source_target("s3").endswith(".S3Source")
    for find in (
        ComponentCatalog.get_source_target,
        ComponentCatalog.get_loader_target,
        ComponentCatalog.get_modifier_target,
    ):
        with pytest.raises(CheckpointConfigError, match="known"):
            find("nonsense")


@pytest.mark.parametrize("kind", ["lightning", "pytorch", "state_dict", "safetensors"])
def test_every_format_is_detected_loaded_and_converted(
    kind: str, file: Path, training: Training, tmp_path: Path
) -> None:
    weights = training.model.state_dict()
    path = tmp_path / {"lightning": file.name, "pytorch": "a.pt", "state_dict": "a.pth"}.get(kind, "a.safetensors")
    if kind == "safetensors":
        save_file(weights, path)
    elif kind != "lightning":
        torch.save({"model_state_dict": weights, "epoch": 7} if kind == "pytorch" else weights, path)
    assert preheat.detect_format(path) == kind
    data = preheat.load_checkpoint(path, checkpoint_format=kind)
    assert preheat.compare_state_dicts(data["state_dict"], weights) == (set(), set(), {})
    assert data.get("epoch") == (7 if kind in ("lightning", "pytorch") else None)
    data.close()
    with pytest.raises(CheckpointLoadError, match=f"model|a.*: the format is {kind}, not onnx"):
        preheat.load_checkpoint(path, checkpoint_format="onnx")
    preheat.convert_checkpoint(path, tmp_path / "converted.safetensors")
    assert preheat.detect_format(tmp_path / "converted.safetensors") == "safetensors"


def test_errors_are_caught_by_their_kind(target: Any, file: Path) -> None:
    loader = target("loaders.WeightsOnlyLoader")
    with pytest.raises(CheckpointNotFoundError, match=r"nothing\.ckpt") as missing:
        run([target("sources.LocalSource", path=str(file.parent / "nothing.ckpt")), loader])
    context = CheckpointContext(model=network(classes=10))
    with pytest.raises(CheckpointIncompatibleError, match=r"classifier\.weight") as other:
        run([target("sources.LocalSource", path=str(file)), loader], context)
    for caught in (missing.value, other.value):
        assert isinstance(caught, CheckpointError)
        copied = pickle.loads(pickle.dumps(caught))
        assert (type(copied), str(copied)) == (type(caught), str(caught))


def test_the_schema_of_the_configuration_is_the_one_that_was_planned() -> None:
    class Planned(BaseModel):
        """The request's own, written down anew."""

        stages: list[dict[str, Any]] = Field(default_factory=list)
        async_execution: bool = True
        cache_dir: str | None = None
        max_retries: int = 3
        timeout: int = 300

    ours = preheat.CheckpointPipelineConfig(**Planned().model_dump())
    assert {name: getattr(ours, name) for name in Planned.model_fields} == Planned().model_dump()
    assert len(CheckpointPipeline.from_config(ours)) == 0


def test_a_pretrained_file_with_a_wrappers_prefix_is_loaded(target: Any, training: Training, tmp_path: Path) -> None:
    path = tmp_path / "convnext_tiny_22k_1k_384.pth"
    torch.save({"model": torch.nn.DataParallel(training.model).state_dict()}, path)
    done = run([target("sources.LocalSource", path=str(path)), target("loaders.TransferLearningLoader")])
    assert same(done.model, training.model)


def test_two_checkpoints_fill_the_halves_of_one_model(target: Any, training: Training, tmp_path: Path) -> None:
    context = CheckpointContext(model=network())
    for half in ("encoder", "classifier"):
        torch.save({"model": training.model[half].state_dict()}, tmp_path / f"{half}.pth")
        source = target("sources.LocalSource", path=str(tmp_path / f"{half}.pth"))
        run([source, {"convert": {"addPrefix": f"{half}."}}, target("loaders.TransferLearningLoader")], context)
    assert same(context.model, training.model, "encoder")
    assert same(context.model, training.model, "classifier")


def test_a_training_of_plain_torch_is_resumed(target: Any, training: Training, tmp_path: Path) -> None:
    saved = {
        "model": training.model.state_dict(), "optimizer": training.optimizer.state_dict(), "epoch": 100,
        "lr_scheduler": training.scheduler.state_dict(), "iteration": 5000, "best": math.inf,
    }  # fmt: skip
    torch.save(saved, tmp_path / "checkpoint_epoch_100.pth")
    resumed = Training(seed=2)
    source = target("sources.LocalSource", path=str(tmp_path / "checkpoint_epoch_100.pth"))
    done = run([source, target("loaders.WarmStartLoader")], resumed.context)
    assert done.get_metadata("training_state")["iteration"] == 5000
    assert [resumed.step() for _ in range(3)] == [training.step() for _ in range(3)]


def test_a_cached_file_comes_before_the_bucket(file: Path, training: Training) -> None:
    with FaultServer().running() as server:
        url = server.serve("/modelZoo/model-v1.ckpt", file.read_bytes())
        for cached, asked in ((file, False), (file.parent / "elsewhere.ckpt", True)):
            places = [{"local": {"path": str(cached)}}, {"http": {"url": url}}]
            done = run([{"fallback": {"sources": places}}, {"weightsOnly": {}}])
            assert same(done.model, training.model)
            done.checkpoint_data.close()
            assert bool(server.requests) is asked


def test_weights_are_initialized_from_a_previous_run(target: Any, training: Training, tmp_path: Path) -> None:
    for info in ("", "_ema_factor=0.9999"):
        path = tmp_path / f"transformer{info}_cp=latest_model.th"
        position = {"epoch": 10, "update": 100, "sample": 200}
        torch.save({"state_dict": training.model.state_dict(), "training_iteration": position}, path)
        done = run([target("sources.LocalSource", path=str(path)), target("loaders.WeightsOnlyLoader")])
        assert same(done.model, training.model)
        assert done.checkpoint_data is not None
        assert done.checkpoint_data["training_iteration"] == position


def test_a_precision_of_each_part_outlasts_saving_and_loading(target: Any, file: Path, tmp_path: Path) -> None:
    rules = [{"layers": ["processor.1"], "dtype": "bfloat16"}, {"layers": ["classifier"], "dtype": "float16"}]
    stages = [target("loaders.WeightsOnlyLoader"), target("modifiers.PrecisionModifier", rules=rules)]
    first = run([target("sources.LocalSource", path=str(file)), *stages]).model
    torch.save({"state_dict": first.state_dict()}, tmp_path / "saved.ckpt")
    again = run([target("sources.LocalSource", path=str(tmp_path / "saved.ckpt")), *stages]).model
    assert same(again, first)
    types = {name: str(parameter.dtype).removeprefix("torch.") for name, parameter in again.named_parameters()}
    assert (types["encoder.weight"], types["processor.1.weight"], types["classifier.weight"]) == (
        "float32", "bfloat16", "float16",
    )  # fmt: skip


def test_adapters_are_saved_and_restored_with_the_weights(target: Any, file: Path, tmp_path: Path) -> None:
    lora = target("modifiers.LoRAModifier", rank=2, alpha=4, targets=["encoder"])
    stages = [target("loaders.WeightsOnlyLoader"), lora]
    first = run([target("sources.LocalSource", path=str(file)), *stages]).model
    with torch.no_grad():
        for name, parameter in first.named_parameters():
            if "lora_" in name:
                parameter.normal_()  # as trained
    torch.save({"state_dict": first.state_dict()}, tmp_path / "saved.ckpt")
    again = run([target("sources.LocalSource", path=str(tmp_path / "saved.ckpt")), *stages]).model
    assert same(again, first)
    assert {name.partition(".")[0] for name, each in again.named_parameters() if each.requires_grad} == {"encoder"}
    assert torch.equal(again["encoder"](torch.ones(1, 4)), first["encoder"](torch.ones(1, 4)))


def test_every_test_that_is_named_exists() -> None:
    tests = Path(__file__).parents[1]
    missing = []
    for named in EXAMPLES.values():
        file, _, test = named.rpartition("::") if "::" in named or "/" not in named else (named, "", "")
        path = tests / file if file else Path(__file__)
        if not path.is_file() or (test and test not in functions(path)):
            missing.append(named)
    assert missing == []


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, FUNCTIONS)}


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
