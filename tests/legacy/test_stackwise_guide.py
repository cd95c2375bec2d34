"""The examples of Stack-Wise's checkpointing guide, each done with Preheat on files in its layout, and its traps."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from legacy.stackwise_files import WORDS, Adapter, Rack, Stack, progressive, rack_file, stack_file

import preheat
from preheat import CheckpointContext, CheckpointPipeline, inspect
from preheat.blob import Patience
from preheat.bundle.store import Store
from preheat.errors import CheckpointError, CheckpointIncompatibleError, CheckpointNotFoundError, NothingMatchedError
from preheat.prepare import prepare
from preheat.runs.retention import Known, Retention, rule
from preheat.sources.local import LocalSource
from preheat.sources.run import RunSource
from preheat.spec import parse

#: A rack's file calls its embedding after the builder's field; the model has another name for it.
RACK = {"rename": [{"pattern": r"^embeddings\.", "replacement": "embedding."}], "keep": [r"^ln_f\."]}


def source(path: Path) -> dict[str, Any]:
    return {"local": {"path": str(path)}}


def load(model: torch.nn.Module, path: Path, *stages: dict[str, Any], **objects: Any) -> CheckpointContext:
    context = CheckpointContext(model=model, **objects)
    return CheckpointPipeline([source(path), *stages]).execute_sync(context)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def copied(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def untouched(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def trained(rack: Rack) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(rack.stacks.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        rack(torch.arange(WORDS)).square().mean().backward()
        optimizer.step()
    return optimizer


# Progressive checkpoints


def test_a_progressive_checkpoint_is_restored_into_a_new_rack(tmp_path: Path) -> None:
    saved, model = Rack(2), Rack(2)
    load(model, progressive(tmp_path / "progressive_stack_1.pt", saved), {"weightsOnly": {"parts": ["stacks"]}})
    assert same(model.stacks, saved.stacks)
    assert not same(model.embedding, saved.embedding), "such a file holds no embedding"


def test_what_a_progressive_file_lacks_is_said_where_all_of_the_model_is_meant(tmp_path: Path) -> None:
    path = progressive(tmp_path / "progressive_stack_1.pt", Rack(2))
    with pytest.raises(
        CheckpointIncompatibleError, match=r"5 of the model are not in the checkpoint: embedding\.weight"
    ):
        load(Rack(2), path, {"weightsOnly": {}})


def test_what_is_beside_the_weights_can_be_looked_at(tmp_path: Path) -> None:
    found = inspect(progressive(tmp_path / "progressive_stack_1.pt", Rack(2)))
    assert found.layout == "stackwise"
    assert {key: found.state[key] for key in ("timestamp", "stack_idx", "epoch", "loss")} == {
        "timestamp": "2025-10-27T12:00:00", "stack_idx": 1, "epoch": 1, "loss": 0.5,
    }  # fmt: skip
    assert found.state["rack_builder"]["current_stacks"] == 2
    assert {name.split(".blocks")[0] for name in found.tensors} == {"stacks.0", "stacks.1"}


def test_the_training_is_fully_restored(tmp_path: Path) -> None:
    """There, optimizer, epoch, loss and strategies are saved and never restored."""
    saved = Rack(2)
    optimizer = trained(saved)
    path = progressive(tmp_path / "progressive_stack_1.pt", saved, optimizer)
    model = Rack(2)
    own = torch.optim.AdamW(model.stacks.parameters(), lr=0.5)
    done = load(model, path, {"warmStart": {"parts": ["stacks"]}}, optimizer=own)
    assert same(model.stacks, saved.stacks)
    assert own.param_groups[0]["lr"] == 0.01
    moments = [state["exp_avg"] for state in optimizer.state_dict()["state"].values()]
    restored = [state["exp_avg"] for state in own.state_dict()["state"].values()]
    assert len(moments) == 32
    assert all(map(torch.equal, moments, restored))
    state = done.metadata["training_state"]
    assert (state["epoch"], state["loss"], state["trunk_strategy"]) == (1, 0.5, "frozen")
    assert state["new_stack_precision"] == "half"


# Racks


def test_a_whole_rack_is_loaded_with_embedding_and_head(tmp_path: Path) -> None:
    saved, model = Rack(2), Rack(2)
    load(model, rack_file(tmp_path / "complete_rack.pt", saved), {"weightsOnly": RACK})
    assert same(model, saved)


def test_what_a_rack_says_of_itself(tmp_path: Path) -> None:
    found = inspect(rack_file(tmp_path / "complete_rack.pt", Rack(2), {1: "half"}))
    facts = {key: found.state[key] for key in ("current_stacks", "max_stacks", "building_mode", "default_precision")}
    assert list(facts.values()) == [2, 12, "append", "full"]
    assert found.state["precision_settings"] == {"$items": [[0, "full"], [1, "half"]]}


# Stacks


@pytest.mark.parametrize("number", [0, 1])
def test_a_stack_is_loaded_into_its_place_and_nothing_else_changes(tmp_path: Path, number: int) -> None:
    saved, model = Rack(2), Rack(2)
    before = copied(model)
    path = stack_file(tmp_path / f"stack_{number}.pt", saved, number)
    strategy = {"addPrefix": f"stacks.{number}.", "parts": [f"stacks.{number}"]}
    done = load(model, path, {"weightsOnly": strategy})
    assert same(model.stacks[number], saved.stacks[number])
    other = f"stacks.{1 - number}."
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if name.startswith(other))
    assert set(done.metadata["initial_params"].values()) == {"outside of the parts"}
    assert len(done.metadata["initial_params"]) == 16 + 5


def test_a_stack_is_taken_out_of_a_rack_and_put_into_another_place(tmp_path: Path) -> None:
    saved, model = Rack(3), Rack(2)
    path = rack_file(tmp_path / "complete_rack.pt", saved)
    taken = {"convert": {"select": [r"^stacks\.2\."], "stripPrefix": ["stacks.2."]}}
    done = load(model, path, taken, {"weightsOnly": {"addPrefix": "stacks.0.", "parts": ["stacks.0"]}})
    assert same(model.stacks[0], saved.stacks[2])
    assert done.metadata["excluded_tensors"] == 2 * 16 + 3


def test_a_part_is_a_model_of_its_own(tmp_path: Path) -> None:
    saved, model = Rack(2), Stack()
    load(
        model,
        rack_file(tmp_path / "rack.pt", saved),
        {"weightsOnly": {"select": [r"^stacks\.1\."], "stripPrefix": ["stacks.1."]}},
    )
    assert same(model, saved.stacks[1])


def test_stacks_of_several_runs_become_one_rack(tmp_path: Path) -> None:
    racks = [Rack(2), Rack(2)]
    paths = [stack_file(tmp_path / f"stack_{n}.pt", rack, n) for n, rack in enumerate(racks)]
    parts = [{"from": source(path), "addPrefix": f"stacks.{n}."} for n, path in enumerate(paths)]
    model = Rack(2)
    context = CheckpointContext(model=model)
    CheckpointPipeline([{"merge": {"sources": parts}}, {"weightsOnly": {"parts": ["stacks"]}}]).execute_sync(context)
    assert all(same(model.stacks[n], rack.stacks[n]) for n, rack in enumerate(racks))


# Saving with Preheat, and what a folder holds


def test_a_part_that_preheat_saves_is_loaded_into_its_place_in_its_precision(tmp_path: Path) -> None:
    saved, model = Rack(2), Rack(2)
    saved.stacks[1].half()
    model.stacks[1].half()
    folder = preheat.save(tmp_path, saved, epoch=1, name="rack", part="stacks.1")
    assert set(inspect(folder).tensors) == {f"stacks.1.{name}" for name in saved.stacks[1].state_dict()}
    assert {tensor.dtype for tensor in inspect(folder).tensors.values()} == {"F16"}
    before = copied(model.stacks[0])
    done = load(model, folder, {"weightsOnly": {"parts": ["stacks.1"]}})
    assert same(model.stacks[1], saved.stacks[1])
    assert done.metadata["dtype_casts"] == {}
    assert untouched(model.stacks[0], before)


def test_a_progressive_training_goes_on_from_what_preheat_saved_of_it(tmp_path: Path) -> None:
    saved, model = Rack(1), Rack(2)
    optimizer = trained(saved)
    preheat.save(tmp_path, saved, optimizer, epoch=1, metrics={"loss": 0.5}, name="rack")
    own = torch.optim.AdamW(model.stacks[0].parameters(), lr=0.5)
    source = {"run": {"root": {"local": {"path": str(tmp_path)}}, "select": "latest"}}
    context = CheckpointContext(model=model, optimizer=own)
    strategy = {"warmStart": {"parts": ["stacks.0", "embedding", "ln_f", "lm_head"]}}
    done = CheckpointPipeline([source, strategy]).execute_sync(context)
    assert same(model.stacks[0], saved.stacks[0])
    assert done.metadata["epoch"] == 1
    assert own.param_groups[0]["lr"] == 0.01
    assert {name.split(".blocks")[0] for name in done.metadata["initial_params"]} == {"stacks.1"}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """training.checkpoint_dir after three stacks, written in another order than their numbers say."""
    for when, number in enumerate((2, 0, 1)):
        path = progressive(tmp_path / f"progressive_stack_{number}.pt", Rack(number + 1))
        os.utime(path, (when + 1, when + 1))
    return tmp_path


def test_checkpoints_are_listed_newest_first(checkpoints: Path) -> None:
    """There every file is loaded whole for it."""
    run = RunSource(LocalSource(str(checkpoints)), layout="stackwise")
    names = [each.checkpoint.name for each in run.selection(Patience())]
    assert names == [f"progressive_stack_{number}.pt" for number in (1, 0, 2)]


def test_the_only_checkpoint_of_a_stack_is_never_removed_for_being_old(checkpoints: Path) -> None:
    """There the guide removes all but the newest files, each of which is the only one of its stack."""
    listed = [
        each.checkpoint for each in RunSource(LocalSource(str(checkpoints)), layout="stackwise").selection(Patience())
    ]
    assert all(each.stays for each in rule(listed, Retention(last=1), Known()))


def test_the_newest_checkpoint_of_a_folder_is_restored(checkpoints: Path) -> None:
    model = Rack(2)
    source = {"run": {"root": {"local": {"path": str(checkpoints)}}, "layout": "stackwise"}}
    context = CheckpointContext(model=model)
    CheckpointPipeline([source, {"weightsOnly": {"parts": ["stacks"]}}]).execute_sync(context)
    stacks = torch.load(checkpoints / "progressive_stack_1.pt")["rack_builder"]["stacks"]
    assert torch.equal(model.stacks[1].blocks[0].norm1.weight, stacks[1]["blocks.0.norm1.weight"])


# Traps


def test_more_stacks_than_the_model_has_are_named_and_nothing_is_touched(tmp_path: Path) -> None:
    """There the others are dropped, the count is theirs, and the answer is True."""
    model = Rack(1)
    before = copied(model)
    path = progressive(tmp_path / "progressive_stack_1.pt", Rack(2))
    with pytest.raises(
        CheckpointIncompatibleError, match=r"16 of the checkpoint are not in the model: stacks\.1\.blocks"
    ):
        load(model, path, {"weightsOnly": {"parts": ["stacks"], "select": [r"^stacks\."]}})
    assert untouched(model, before)


def test_some_of_more_stacks_are_loaded_where_that_is_what_is_asked_for(tmp_path: Path) -> None:
    saved, model = Rack(3), Rack(1)
    done = load(
        model, progressive(tmp_path / "progressive_stack_2.pt", saved), {"weightsOnly": {"parts": ["stacks.0"]}}
    )
    assert same(model.stacks[0], saved.stacks[0])
    skipped = done.metadata["skipped_params"]
    assert {name.split(".blocks")[0] for name in skipped} == {"stacks.1", "stacks.2"}
    assert set(skipped.values()) == {"outside of the parts"}


def test_fewer_stacks_than_the_model_has_are_named_too(tmp_path: Path) -> None:
    path = progressive(tmp_path / "progressive_stack_0.pt", Rack(1))
    with pytest.raises(
        CheckpointIncompatibleError, match=r"16 of the model are not in the checkpoint: stacks\.1\.blocks"
    ):
        load(Rack(2), path, {"weightsOnly": {"parts": ["stacks"]}})


def test_a_stack_that_does_not_fit_leaves_those_before_it_as_they_are(tmp_path: Path) -> None:
    """There the first stacks are overwritten before the last is found not to fit."""
    saved, model = Rack(2), Rack(2)
    saved.stacks[1].blocks[0].norm2 = torch.nn.LayerNorm(5)
    before = copied(model)
    with pytest.raises(CheckpointIncompatibleError, match=r"stacks\.1\.blocks\.0\.norm2\.weight \(shape \[5\]"):
        load(model, progressive(tmp_path / "progressive_stack_1.pt", saved), {"weightsOnly": {"parts": ["stacks"]}})
    assert untouched(model, before)


def test_a_part_that_is_not_in_the_model_or_not_in_the_file_is_an_error(tmp_path: Path) -> None:
    path, model = stack_file(tmp_path / "stack_0.pt", Rack(1), 0), Rack(1)
    with pytest.raises(NothingMatchedError, match=r"parts: the model has nothing at 'stack\.0'"):
        load(model, path, {"weightsOnly": {"parts": ["stack.0"]}})
    with pytest.raises(
        NothingMatchedError, match=r"without the prefix 'stacks\.0\.' of the model's names 16 of 16 would"
    ):
        load(model, path, {"weightsOnly": {"parts": ["stacks.0"]}})


def test_adapters_come_with_their_stack_or_are_left_by_name(tmp_path: Path) -> None:
    """There no rack with adapters can be saved, and one without refuses them."""
    saved = Rack(1, adapters=True)
    path = rack_file(tmp_path / "rack.pt", saved)
    model = Rack(1, adapters=True)
    load(model, path, {"weightsOnly": RACK})
    assert same(model, saved)
    plain = Rack(1)
    with pytest.raises(CheckpointIncompatibleError, match=r"q_proj\.lora_adapter_0_0\.down\.weight"):
        load(plain, path, {"weightsOnly": RACK})
    load(plain, path, {"weightsOnly": {**RACK, "exclude": [r"\.lora_adapter_"]}})
    assert torch.equal(plain.stacks[0].blocks[0].norm1.weight, saved.stacks[0].blocks[0].norm1.weight)


def test_adapters_that_hang_on_hooks_are_saved_and_loaded(tmp_path: Path) -> None:
    """There every save with adapters fails, because hooks cannot be pickled, and leaves a truncated file."""
    saved, model = Rack(2, adapters=True), Rack(2, adapters=True)
    for rack in (saved, model):
        for number, stack in enumerate(rack.stacks):
            projection = stack.blocks[0].attention["q_proj"]
            adapter = projection.get_submodule(f"lora_adapter_{number}_0")
            projection.register_forward_hook(lambda _, given, out, a=adapter: out + a.up(a.down(given[0])))
    load(model, preheat.save(tmp_path, saved, epoch=1, name="rack"), {"weightsOnly": {}})
    assert same(model, saved)
    words = torch.arange(WORDS)
    assert torch.equal(model(words), saved(words))


def test_adapters_alone_are_a_part_as_any_other(tmp_path: Path) -> None:
    saved, model = Rack(1, adapters=True), Rack(1, adapters=True)
    adapter = "stacks.0.blocks.0.attention.q_proj.lora_adapter_0_0"
    before = copied(model)
    load(model, rack_file(tmp_path / "rack.pt", saved), {"weightsOnly": {"parts": [adapter]}})
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == [f"{adapter}.down.weight", f"{adapter}.up.weight"]


def test_living_modules_in_a_file_are_named_and_never_made(tmp_path: Path) -> None:
    """What Stack-Wise tries to save of its adapters: objects, which its own loading would have to unpickle."""
    saved, model = Rack(1), Rack(1)
    adapters = {0: {"rank": 2, "adapters": {"0_q_proj": {"adapter": Adapter()}}, "enabled": True}}
    path = progressive(tmp_path / "progressive_stack_0.pt", saved, adapters=adapters)
    assert "legacy.stackwise_files.Adapter" in inspect(path).opaque
    load(model, path, {"weightsOnly": {"parts": ["stacks"]}})
    assert same(model.stacks, saved.stacks)


def test_a_file_that_is_not_there_is_an_error_that_says_what_is(tmp_path: Path) -> None:
    """There it is None, or False."""
    progressive(tmp_path / "progressive_stack_0.pt", Rack(1))
    with pytest.raises(CheckpointNotFoundError, match=r"progressive_stack_1\.pt; there is progressive_stack_0\.pt"):
        load(Rack(1), tmp_path / "progressive_stack_1.pt", {"weightsOnly": {}})


def test_a_truncated_file_is_an_error_and_not_an_answer_of_false(tmp_path: Path) -> None:
    path, model = progressive(tmp_path / "progressive_stack_0.pt", Rack(1)), Rack(1)
    path.write_bytes(path.read_bytes()[:-200])
    before = copied(model)
    with pytest.raises(CheckpointError, match="the file ends at byte"):
        load(model, path, {"weightsOnly": {"parts": ["stacks"]}})
    assert untouched(model, before)


# Labels of precision and caches


def test_a_label_of_precision_is_honoured_where_it_is_asked_for(tmp_path: Path) -> None:
    """There it is a label, and nothing follows from it."""
    saved = Rack(3)
    path = rack_file(tmp_path / "rack.pt", saved, {0: "full", 1: "half", 2: "bfloat16"})
    model = Rack(3)
    for stack, dtype in zip(model.stacks, (torch.float32, torch.float16, torch.bfloat16), strict=True):
        stack.to(dtype)
    done = load(model, path, {"convert": {"dtype": "labelled"}}, {"weightsOnly": RACK})
    assert done.metadata["dtype_casts"] == {}, "what arrives has the precision already"
    assert torch.equal(model.stacks[1].blocks[0].norm1.bias, saved.stacks[1].blocks[0].norm1.bias.half())
    plain = load(Rack(3), path, {"weightsOnly": RACK})
    assert plain.metadata["dtype_casts"] == {}


def test_a_stack_of_its_own_has_its_label_too(tmp_path: Path) -> None:
    path, model = stack_file(tmp_path / "stack_0.pt", Rack(1), 0, "half"), Stack().half()
    done = load(model, path, {"convert": {"dtype": "labelled"}}, {"weightsOnly": {}})
    assert done.metadata["dtype_casts"] == {}


@pytest.mark.parametrize("label", ["qlora", "nvfp4"])
def test_a_label_that_is_no_precision_leaves_the_values_as_they_are(tmp_path: Path, label: str) -> None:
    saved, model = Rack(1), Rack(1)
    path = rack_file(tmp_path / "rack.pt", saved, {0: label})
    load(model, path, {"convert": {"dtype": "labelled"}}, {"weightsOnly": RACK})
    assert same(model, saved)


def test_a_label_that_nobody_knows_and_a_file_without_labels_are_errors(tmp_path: Path) -> None:
    path = rack_file(tmp_path / "rack.pt", Rack(1), {0: "int3"})
    with pytest.raises(CheckpointIncompatibleError, match=r"stacks\.0\. has the label 'int3'; known are full, half"):
        load(Rack(1), path, {"convert": {"dtype": "labelled"}}, {"weightsOnly": RACK})
    torch.save(Rack(1).state_dict(), tmp_path / "plain.pt")
    with pytest.raises(CheckpointIncompatibleError, match="raw has none"):
        load(Rack(1), tmp_path / "plain.pt", {"convert": {"dtype": "labelled"}}, {"weightsOnly": {}})


@pytest.mark.parametrize("strategy", ["weightsOnly", "warmStart"])
def test_a_cache_of_activations_stays_where_it_is_and_is_listed(tmp_path: Path, strategy: str) -> None:
    rack = Rack(1)
    cache = {"stack_0": {"batch_1": torch.ones(1000), "batch_2": torch.ones(24)}}
    path = progressive(tmp_path / "progressive_stack_0.pt", rack, trained(rack), cache)
    spec = parse({"stages": [source(path), {strategy: {"parts": ["stacks"]}}]})
    outcome = prepare(spec, Store(tmp_path / "volume"), "test")
    manifest = json.loads((outcome.folder / "manifest.json").read_text())
    assert manifest["left"]["entries"]["activation_cache"] == {"tensors": 2, "bytes": 4096}
    assert ("optimizer_state_dict" in manifest["left"]["entries"]) is (strategy == "weightsOnly")
    assert manifest["state"]["activation_cache"]["stack_0"]["batch_1"] == {"$tensor": {"dtype": "F32", "shape": [1000]}}


def test_a_cache_of_activations_is_read_by_who_asks_for_it(tmp_path: Path) -> None:
    cache = {"stack_0": {"batch_1": torch.arange(1000.0)}}
    path = progressive(tmp_path / "progressive_stack_0.pt", Rack(1), cache=cache)
    rack = Rack(1)
    folder = preheat.save(tmp_path, rack, trained(rack), epoch=1, extra={"activation_cache": cache})
    for found in (preheat.load_checkpoint(path), preheat.load_checkpoint(folder)["extra"]):
        assert torch.equal(found["activation_cache"]["stack_0"]["batch_1"], cache["stack_0"]["batch_1"])
