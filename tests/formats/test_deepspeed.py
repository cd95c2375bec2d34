"""DeepSpeed's folders of all stages of ZeRO, against the weights that they were made of and against its own script."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from formats import zero_saves
from formats.test_distributed import MemoryFolder
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sources.fault_server import FaultServer

from preheat.blob import Patience
from preheat.bundle.store import Store
from preheat.errors import (
    CheckpointError,
    CheckpointLoadError,
    CheckpointNotFoundError,
    CheckpointValidationError,
    TruncatedError,
    UnsupportedFormatError,
)
from preheat.formats import read_index
from preheat.formats.folders import open_in
from preheat.index import Index
from preheat.prepare import prepare
from preheat.sources.local import LocalSource
from preheat.spec import parse

GROUPS = [
    {"emb.weight": torch.randn(11, 5), "a.weight": torch.randn(7, 5), "b.weight": torch.randn(5, 7)},
    {"a.bias": torch.randn(7), "scale": torch.randn(()), "b.bias": torch.randn(5)},
]
BUFFERS = {"seen": torch.arange(6), "mean": torch.rand(3).bfloat16()}
FROZEN = {"old.weight": torch.randn(3, 5), "old.bias": torch.randn(1)}
TIED = {"head.weight": "emb.weight"}
EXPECTED = GROUPS[0] | GROUPS[1] | {"seen": BUFFERS["seen"], "mean": BUFFERS["mean"].float()}
EXPECTED |= {name: tensor.bfloat16().float() for name, tensor in FROZEN.items()}
EXPECTED |= {"head.weight": GROUPS[0]["emb.weight"]}


def save(folder: Path, stage: int, ranks: int = 3, **options: Any) -> Path:
    return zero_saves.save(
        folder, stage, GROUPS, ranks=ranks, **{"buffers": BUFFERS, "frozen": FROZEN, "tied": TIED, **options}
    )


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def index_of(folder: Path) -> Index:
    with contextlib.closing(LocalSource(str(folder)).open(Patience())) as blob:
        return read_index(blob)


def loaded(folder: Path, volume: Path) -> dict[str, torch.Tensor]:
    """The weights of the bundle, tied ones included."""
    outcome = prepare(parse({"stages": [{"local": {"path": str(folder)}}]}), Store(volume), "me")
    tensors = load_file(outcome.folder / "model.safetensors")
    return tensors | {alias: tensors[name] for alias, name in outcome.manifest.aliases.items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_weights_of_every_stage_come_together(tmp_path: Path, stage: int, ranks: int) -> None:
    folder = save(tmp_path / "saved", stage, ranks, prefix=["", "bf16_", "fp16_"][ranks % 3])
    assert_same(loaded(folder, tmp_path / "volume"), EXPECTED)
    index = index_of(folder)
    assert (index.format, index.layout) == ("deepspeed", f"zero-{stage}")


def test_a_share_may_lie_in_several_vectors(tmp_path: Path) -> None:
    assert_same(loaded(save(tmp_path / "saved", 3, 2, sub_groups=5), tmp_path / "volume"), EXPECTED)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeeds_own_script_gives_the_same(tmp_path: Path, stage: int) -> None:
    script = pytest.importorskip("deepspeed.utils.zero_to_fp32", reason="DeepSpeed is not installed")
    folder = save(tmp_path / "saved", stage)
    theirs = script.get_fp32_state_dict_from_zero_checkpoint(str(folder))
    theirs = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in theirs.items()}
    ours = loaded(folder, tmp_path / "volume")
    assert_same({name: tensor for name, tensor in ours.items() if stage > 1 or name not in FROZEN}, theirs)


def test_everything_else_is_state(tmp_path: Path) -> None:
    index = index_of(save(tmp_path / "saved", 2, epoch=4))
    assert (index.state["epoch"], index.state["global_steps"]) == (4, 5)
    assert len(index.state["zero"]) == 3
    assert "module" not in index.state
    assert "torch.nn.modules.linear.Identity" in index.opaque


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_warm_start_has_the_optimizer_by_the_names_of_the_weights(tmp_path: Path, stage: int) -> None:
    folder = save(tmp_path / "saved", stage)
    spec = parse({"stages": [{"local": {"path": str(folder)}}, {"warmStart": {}}]})
    bundle = prepare(spec, Store(tmp_path / "volume"), "me").folder
    tensors = load_file(bundle / "state.safetensors")
    for name, weight in (GROUPS[0] | GROUPS[1]).items():
        assert torch.equal(tensors[f"optimizer.state.{name}.exp_avg"], weight * 2)
        assert torch.equal(tensors[f"optimizer.state.{name}.exp_avg_sq"], weight.square())
    [decayed, others] = index_of(folder).state["optimizer"]["param_groups"]
    assert (decayed["lr"], decayed["params"]) == (0.1, list(GROUPS[0]))
    assert others["params"] == list(GROUPS[1])


OTHER_OPTIMIZERS = [
    [torch.ones(3)],
    {"state": {}, "param_groups": []},
    {"state": {0: {"a": 1}, 1: {"b": 1}}, "param_groups": []},
    {"state": {0: {"a": 1}, 1: {"a": 1}}, "param_groups": []},
    {"state": {number: {"exp_avg": torch.ones(2)} for number in (0, 1)}, "param_groups": []},
    {"state": {0: {"exp_avg": 1}, 1: {"exp_avg": 1}}, "param_groups": [{"params": [7]}]},
]


@pytest.mark.parametrize("other", OTHER_OPTIMIZERS, ids=str)
def test_an_optimizer_of_another_kind_stays_in_the_parts_of_its_ranks(tmp_path: Path, other: Any) -> None:
    folder = save(tmp_path / "saved", 2)
    change_optimizer(folder, base_optimizer_state=other)
    index = index_of(folder)
    assert index.state["optimizer"] is None
    assert [sorted(rank.keys() & {"base_optimizer_state"}) for rank in index.state["zero"]] == [
        ["base_optimizer_state"]
    ] * 3


def test_lightning_is_recognised_and_its_old_wrapper_taken_off(tmp_path: Path) -> None:
    folder = zero_saves.save(
        tmp_path / "epoch=1.ckpt", 2, [{"_forward_module.w": torch.ones(3)}], ranks=2, tag="checkpoint",
        **{"pytorch-lightning_version": "2.0.9", "epoch": 1},
    )  # fmt: skip
    index = index_of(folder)
    assert (index.layout, list(index.tensors)) == ("lightning", ["w"])
    [optimizer] = index.state["optimizer_states"]
    assert (list(optimizer["state"]), optimizer["param_groups"]) == (["w"], [{"lr": 0.1, "params": ["w"]}])


def test_without_zero_the_module_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", 1, 2)
    for optimizer in folder.glob("*/*optim_states.pt"):
        optimizer.unlink()
    found = loaded(folder, tmp_path / "volume")
    assert torch.equal(found["a.weight"], GROUPS[0]["a.weight"].bfloat16())
    assert index_of(folder).layout == "module"


def test_a_folder_behind_a_url_is_one_checkpoint(tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", 3)
    with FaultServer().running() as server:
        for name, content in contents_of(folder).items():
            server.serve(f"/run/{name}", content)
        spec = parse({"stages": [{"http": {"url": f"{server.origin}/run/"}}]})
        found = load_file(prepare(spec, Store(tmp_path / "volume"), "me").folder / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in EXPECTED.items() if name in found)
    assert EXPECTED.keys() - found.keys() == set(TIED)


def test_a_checkpoint_called_latest_is_a_checkpoint(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "latest")
    assert index_of(tmp_path / "latest").layout == "raw"


@given(
    shapes=st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=1, max_size=6),
    ranks=st.integers(1, 6),
    stage=st.integers(1, 3),
    sub_groups=st.integers(1, 4),
)
@settings(max_examples=40)
def test_whatever_the_shapes_and_ranks(
    shapes: list[list[int]], ranks: int, stage: int, sub_groups: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    weights = {f"w{i}": torch.randn(shape) for i, shape in enumerate(shapes)}
    folder = tmp_path_factory.mktemp("zero")
    zero_saves.save(folder / "saved", stage, [weights], ranks=ranks, sub_groups=sub_groups)
    assert_same(loaded(folder / "saved", folder / "volume"), weights)


def change_model(folder: Path, **changes: Any) -> None:
    for file in folder.glob("*/*model_states.pt"):
        tree = torch.load(file, weights_only=False)
        torch.save({**tree, **changes}, file)


def change_optimizer(folder: Path, **changes: Any) -> None:
    for file in folder.glob("*/*rank_0_*optim_states.pt"):
        tree = torch.load(file, weights_only=False)
        tree["optimizer_state_dict"] |= changes
        torch.save(tree, file)


def shapes(**changes: Any) -> Callable[[Path], None]:
    tables = [{name: tensor.shape for name, tensor in group.items()} for group in GROUPS]
    return lambda folder: change_model(folder, param_shapes=[tables[0] | changes, tables[1]])


def remove(pattern: str) -> Callable[[Path], None]:
    return lambda folder: next(folder.glob(pattern)).unlink()


HOSTILE: dict[str, tuple[Callable[[Path], Any], type[CheckpointError], str]] = {
    "a tag that leads out": (lambda f: (f / "latest").write_text("../x"), CheckpointLoadError, "no name of a folder"),
    "a tag that is the folder": (lambda f: (f / "latest").write_text(".."), CheckpointLoadError, "no name of a folder"),
    "no tag": (lambda f: (f / "latest").write_text("\n"), CheckpointLoadError, "no name of a folder"),
    "a missing folder": (lambda f: (f / "latest").write_text("gone"), CheckpointNotFoundError, "gone"),
    "a missing rank": (remove("*/*rank_1_*optim_states.pt"), CheckpointNotFoundError, "rank_1_"),
    "a missing model": (remove("*/*model_states.pt"), CheckpointNotFoundError, "model_states"),
    "fewer ranks": (lambda f: change_optimizer(f, partition_count=[2, 2]), CheckpointValidationError, "to element 90"),
    "endless ranks": (lambda f: change_optimizer(f, partition_count=10**9), CheckpointLoadError, "how many ranks"),
    "ranks that differ": (lambda f: change_optimizer(f, partition_count=[3, 1]), UnsupportedFormatError, "different"),
    "ranks in a list of lists": (lambda f: change_optimizer(f, partition_count=[[]]), CheckpointLoadError, "how many"),
    "another stage": (lambda f: change_optimizer(f, zero_stage=7), UnsupportedFormatError, "no stage of ZeRO"),
    "no flat groups": (lambda f: change_optimizer(f, single_partition_of_fp32_groups=7), UnsupportedFormatError, ""),
    "other paddings": (lambda f: change_optimizer(f, param_alignment_paddings=[[], []]), CheckpointError, "paddings"),
    "negative paddings": (lambda f: change_optimizer(f, param_alignment_paddings=[[-1]]), CheckpointError, "no num"),
    "larger": (shapes(**{"a.weight": (7, 500)}), CheckpointValidationError, "reaches to element"),
    "much larger": (shapes(**{"a.weight": (1 << 40, 1 << 40)}), CheckpointValidationError, "reaches to element"),
    "smaller": (shapes(**{"a.weight": (1,)}), CheckpointValidationError, "of group 0 are"),
    "no shape": (shapes(**{"a.weight": "7"}), CheckpointLoadError, "no numbers"),
    "fewer groups": (lambda f: change_model(f, param_shapes=[]), CheckpointValidationError, "number of groups"),
    "tensor parallelism": (lambda f: change_model(f, mp_world_size=2), UnsupportedFormatError, "mp_world_size"),
    "parallelism of no degree": (lambda f: change_model(f, mp_world_size=[]), UnsupportedFormatError, "unknown parts"),
    "experts": (lambda f: change_model(f, ds_autoep_layers=[{}]), UnsupportedFormatError, "experts"),
    "no table of tied weights": (lambda f: change_model(f, shared_params=[1]), UnsupportedFormatError, "shared_params"),
    "no module": (lambda f: change_model(f, module=None), UnsupportedFormatError, "module is a NoneType"),
    "frozen weights of other shapes": (
        lambda f: change_model(f, frozen_param_shapes={"old.bias": (9,)}), CheckpointValidationError, "has 1 elements"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_the_files_do_not_bear_out_is_refused(tmp_path: Path, case: str) -> None:
    change, error, words = HOSTILE[case]
    folder = save(tmp_path / "saved", 2)
    change(folder)
    with pytest.raises(error, match=words or None):
        index_of(folder)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", 3)
    [file] = folder.glob("*/*rank_1_*optim_states.pt")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(TruncatedError, match="zero_pp_rank_1"):
        index_of(folder)


@pytest.mark.parametrize("stage", [2, 3])
def test_damage_ends_in_an_error_of_preheat_or_does_no_harm(tmp_path: Path, stage: int) -> None:
    folder = save(tmp_path / "saved", stage, 2)
    contents = contents_of(folder)
    chance = random.Random(stage)
    for _ in range(200):
        name = chance.choice(list(contents))
        damaged = bytearray(contents[name])
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with contextlib.suppress(CheckpointError):
            read_index(open_in(MemoryFolder({**contents, name: bytes(damaged)}), "latest"))
