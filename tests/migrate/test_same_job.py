"""From a legacy configuration to weights in a model: what a migration writes does the job on the system's own files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from legacy import lightning_files, noether_files, stackwise_files

from preheat import CheckpointContext, CheckpointPipeline
from preheat.bundle.store import Store
from preheat.errors import CheckpointIncompatibleError, CheckpointNotFoundError, NothingMatchedError
from preheat.migrate import migrate
from preheat.prepare import prepare
from preheat.spec import parse


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.ModuleDict({"encoder": torch.nn.Linear(3, 2), "head": torch.nn.Linear(2, 2)})


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def spec_of(text: str, system: str) -> dict:
    migration, _ = migrate(yaml.safe_load(text), system)
    assert migration.document
    return migration.document["spec"]


def loaded(text: str, system: str, into: torch.nn.Module, **objects: object) -> CheckpointContext:
    """The job in process."""
    stages = spec_of(text, system)["stages"]
    return CheckpointPipeline(stages).execute_sync(CheckpointContext(model=into, **objects))


def bundled(text: str, system: str, folder: Path) -> str:
    """The job of a pod's loader, and which checkpoint it took."""
    spec = parse(spec_of(text, system))
    return prepare(spec, Store(folder), "a-pod").manifest.source.uri


@pytest.fixture
def run(tmp_path: Path) -> dict[str, torch.nn.Module]:
    """A run of Noether's, whose document has two examples: which network was saved under which tag."""
    folder = tmp_path / "out" / noether_files.RUN / "train" / "checkpoints"
    saved = {}
    for epoch in (9, 10):
        tag = noether_files.position(epoch)
        saved[tag] = network(epoch)
        noether_files.save_all(folder, "transformer", tag, saved[tag])
    for seed, (tag, info) in enumerate([("latest", ""), ("best_model.accuracy", ""), ("latest", "ema=0.9999")]):
        saved[f"{tag}{info}"] = network(seed)
        noether_files.save_weights(folder, "transformer", tag, network(seed).state_dict(), info)
    return saved


RESUME = """
output_path: {out}
resume_run_id: 2026-03-01_abcde
resume_stage_name: train
stage_name: continue_training
{more}
"""


@pytest.mark.parametrize(
    ("more", "epoch"),
    [
        ("", 10),
        ("resume_checkpoint: E9", 9),
        ("resume_checkpoint: U90", 9),
        ("resume_checkpoint: S400", 10),
        ("resume_checkpoint: E9_U90_S360", 9),
    ],
)
def test_noethers_document_goes_on_with_a_run(tmp_path, run, more, epoch):
    into = network(99)
    optimizer = torch.optim.AdamW(into.parameters(), lr=1.0)
    text = RESUME.format(out=tmp_path / "out", more=more)
    context = loaded(text, "noether", into, optimizer=optimizer)
    assert same(into, run[noether_files.position(epoch)])
    assert context.get_metadata("epoch") == epoch
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert noether_files.position(epoch) in bundled(text, "noether", tmp_path / "volume")


INITIALIZER = """
output_path: {out}
model:
  name: my_model
  initializers:
  - kind: noether.core.initializers.PreviousRunInitializer
    run_id: 2026-03-01_abcde
    model_name: transformer
    stage_name: train
    checkpoint: {checkpoint}
{more}
"""


@pytest.mark.parametrize(
    ("checkpoint", "more", "saved"),
    [
        ("latest", "", "latest"),
        ("best.accuracy", "", "best_model.accuracy"),
        ("E10_U100_S400", "", "E10_U100_S400"),
        ("latest", "    model_info: ema_factor=0.9999", "latestema=0.9999"),
        ("{epoch: 9}", "", "E9_U90_S360"),
    ],
)
def test_noethers_document_takes_weights_of_a_run(tmp_path, run, checkpoint, more, saved):
    into = network(99)
    loaded(INITIALIZER.format(out=tmp_path / "out", checkpoint=checkpoint, more=more), "noether", into)
    assert same(into, run[saved])


def test_noethers_transformations_are_done_in_its_order(tmp_path):
    saved = {
        "trunk.weight": torch.ones(2, 3),
        "trunk.bias": torch.ones(2),
        "aux_loss": torch.ones(1),
        "head.weight": torch.ones(5),
    }
    noether_files.save_weights(tmp_path / noether_files.RUN / "train" / "checkpoints", "transformer", "latest", saved)
    more = """
    keys_to_remove: [aux_loss]
    patterns_to_rename: [{src: trunk., dst: encoder.}]
    patterns_to_instantiate: [head]
    """
    into, before = network(99), network(99)
    loaded(INITIALIZER.format(out=tmp_path, checkpoint="latest", more=more), "noether", into)
    assert into["encoder"].weight.eq(1).all()
    assert same(into["head"], before["head"])


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        # Noether overwrites one of the two, silently.
        (
            "patterns_to_rename: [{src: trunk, dst: encoder}]",
            CheckpointIncompatibleError,
            "both become 'encoder.weight'",
        ),
        # Noether compares the norm of all weights before and after.
        ("patterns_to_instantiate: [encoder, head]", NothingMatchedError, "every tensor of the model is left out"),
        ("keys_to_remove: [encoder]", NothingMatchedError, "matches none"),
    ],
)
def test_what_noether_passes_over_is_an_error(tmp_path, more, error, says):
    saved = {**network(1).state_dict(), "trunk.weight": torch.ones(2, 3)}
    noether_files.save_weights(tmp_path / noether_files.RUN / "train" / "checkpoints", "transformer", "latest", saved)
    with pytest.raises(error, match=says):
        loaded(INITIALIZER.format(out=tmp_path, checkpoint="latest", more=f"    {more}"), "noether", network(99))


def test_parts_of_a_composite_model_come_from_their_own_runs(tmp_path):
    torch.manual_seed(1)
    parts = {"encoder": torch.nn.Linear(3, 2), "head": torch.nn.Linear(2, 2)}
    for run_id, tag, part in (("run-a", "latest", "encoder"), ("run-b", noether_files.position(1), "head")):
        folder = tmp_path / run_id / "checkpoints"
        noether_files.save_weights(folder, "upt", tag, parts[part].state_dict())
    text = f"""
    output_path: {tmp_path}
    model:
      name: composite
      encoder:
        is_frozen: true
        initializers: [{{kind: a.PreviousRunInitializer, run_id: run-a, model_name: upt, checkpoint: latest}}]
      head:
        initializers: [{{kind: a.PreviousRunInitializer, run_id: run-b, model_name: upt, checkpoint: E1}}]
    """
    into = network(99)
    loaded(text, "noether", into)
    assert all(same(into[name], part) for name, part in parts.items())
    assert [parameter.requires_grad for parameter in into.parameters()] == [False, False, True, True]


# Anemoi's trainer: model.model is the interface, model.model.model the network.


class Forecaster(torch.nn.Module):
    def __init__(self, seed: int, classes: int = 2) -> None:
        super().__init__()
        interface = torch.nn.Module()
        interface.model = network(seed)
        interface.model["head"] = torch.nn.Linear(2, classes)
        interface.pre_processors = torch.nn.BatchNorm1d(3, affine=False)
        self.model = interface


@pytest.fixture
def anemoi(tmp_path: Path) -> Forecaster:
    saved = Forecaster(1)
    saved.model.pre_processors.running_mean.fill_(7)
    lightning_files.save_training(tmp_path / "checkpoint" / "run-1" / "last.ckpt", saved)
    lightning_files.save_inference(tmp_path / "checkpoint" / "run-1" / "inference-last.ckpt", saved)
    return saved


OUTPUT = "system: {{output: {{root: {out}, checkpoints: {{root: checkpoint}}}}}}\ntraining: {{{training}}}\n"


@pytest.mark.parametrize("training", ["run_id: run-1", "fork_run_id: run-1", "run_id: new, fork_run_id: run-1"])
def test_anemois_run_and_fork_go_on_with_everything(tmp_path, anemoi, training):
    into = Forecaster(99)
    optimizer = torch.optim.AdamW(into.parameters(), lr=1.0)
    context = loaded(OUTPUT.format(out=tmp_path, training=training), "anemoi", into, optimizer=optimizer)
    assert same(into, anemoi)
    assert (context.get_metadata("global_step"), optimizer.param_groups[0]["lr"]) == (400, 0.01)


def test_anemois_warm_start_names_a_file(tmp_path, anemoi):
    path = tmp_path / "checkpoint" / "run-1" / "last.ckpt"
    for text in (f"system: {{input: {{warm_start: {path}}}}}", f"training: {{resume_from_checkpoint: {path}}}"):
        into = Forecaster(99)
        loaded(text, "anemoi", into, optimizer=torch.optim.AdamW(into.parameters()))
        assert same(into, anemoi)
    old = f"hardware: {{paths: {{warm_start: {path.parent}}}, files: {{warm_start: last.ckpt}}}}"
    assert bundled(old, "anemoi", tmp_path / "volume") == str(path)


def test_anemois_transfer_keeps_the_datasets_statistics_and_freezes_what_is_there(tmp_path, anemoi):
    training = "fork_run_id: run-1, load_weights_only: true, transfer_learning: true, submodules_to_freeze: [encoder]"
    training += ", update_ds_stats_on_ckpt_load: {states: true, tendencies: false}"
    into = Forecaster(99, classes=5)
    context = loaded(OUTPUT.format(out=tmp_path, training=training), "anemoi", into)
    assert same(into.model.model["encoder"], anemoi.model.model["encoder"])
    assert into.model.pre_processors.running_mean.eq(0).all()
    assert "model.model.head.weight" in context.get_metadata("skipped_params")
    trained = [name for name, parameter in into.named_parameters() if parameter.requires_grad]
    assert trained == ["model.model.head.weight", "model.model.head.bias"]


def test_a_run_of_anemois_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(CheckpointNotFoundError):
        loaded(OUTPUT.format(out=tmp_path, training="run_id: none"), "anemoi", Forecaster(1))


# linnaeus


def test_linnaeus_resumes_by_name_and_reads_pretrained_weights_by_name(tmp_path):
    saved = network(1)
    content = {"model": saved.state_dict(), "optimizer": noether_files.trained(saved).state_dict(), "epoch": 100}
    content["model"] = saved.state_dict()
    (tmp_path / "cache").mkdir()
    torch.save(content, tmp_path / "cache" / "checkpoint_epoch_100.pth")
    into = network(99)
    text = f"""
    MODEL: {{RESUME: checkpoint_epoch_100.pth}}
    TRAIN: {{AUTO_RESUME: False}}
    ENV: {{INPUT: {{CACHE_DIR: {tmp_path}/cache}}}}
    """
    context = loaded(text, "linnaeus", into, optimizer=torch.optim.AdamW(into.parameters()))
    assert same(into, saved)
    assert context.get_metadata("epoch") == 100
    weights = network(98)
    loaded(text.replace("RESUME: checkpoint", "PRETRAINED: checkpoint"), "linnaeus", weights)
    assert same(weights, saved)


# Stack-Wise


def test_stackwise_restores_a_training_a_rack_and_a_stack(tmp_path):
    saved = stackwise_files.Rack(2)
    moved = noether_files.trained(saved.stacks)
    path = stackwise_files.progressive(tmp_path / "progressive_stack_1.pt", saved, moved)
    into = stackwise_files.Rack(2)
    optimizer = torch.optim.AdamW(into.stacks.parameters(), lr=1.0)
    context = loaded(f"restore_from_checkpoint: {path}", "stackwise", into, optimizer=optimizer)
    assert same(into.stacks, saved.stacks)
    assert (optimizer.param_groups[0]["lr"], context.metadata["training_state"]["loss"]) == (0.01, 0.5)

    whole = stackwise_files.Rack(2)
    loaded(f"load_rack: {stackwise_files.rack_file(tmp_path / 'rack.pt', saved)}", "stackwise", whole)
    assert same(whole, saved)

    one = stackwise_files.Rack(2)
    part = stackwise_files.stack_file(tmp_path / "stack_0.pt", saved, 0)
    loaded(f"load_stack: {{path: {part}, stack_idx: 1}}", "stackwise", one)
    assert same(one.stacks[1], saved.stacks[0])
    assert not same(one.stacks[0], saved.stacks[0])

    newest = stackwise_files.Rack(2)
    loaded(f"training: {{checkpoint_dir: {tmp_path}}}", "stackwise", newest)
    assert same(newest.stacks, saved.stacks)
