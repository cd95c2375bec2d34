"""Several processes and one checkpoint: FSDP2, tensor parallelism, both; and that they stop together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shim import rank_process
from shim.bundles import WEIGHTS_ONLY, write_bundle

from preheat.bundle.absence import Absence
from preheat.bundle.store import Store
from preheat.errors import AccessDeniedError
from preheat.prepare import prepare
from preheat.spec import parse

STAGES = {
    "exact": [WEIGHTS_ONLY],
    "transfer": [{"transferLearning": {"skipMismatched": True}}],
    "freezing": [{"transferLearning": {"skipMismatched": True}}, {"freezing": {"layers": ["up", "embed"]}}],
    "cast": [WEIGHTS_ONLY, {"precision": {"dtype": "bfloat16"}}],
    "cast apart": [WEIGHTS_ONLY, {"precision": {"dtype": "bfloat16", "norms": "float32"}}],
    "pruned": [WEIGHTS_ONLY, {"prune": {"layers": ["up"], "amount": 0.5, "method": "random"}}],
    "broken": [WEIGHTS_ONLY, {"custom": {"target": "rank_process.Broken"}}],
    "late": [WEIGHTS_ONLY, {"freezing": {"layers": ["nowhere"]}}],
    "differing": [WEIGHTS_ONLY],
}


def tensors():
    torch.manual_seed(5)
    state = rank_process.Net().state_dict()
    state = {name: torch.randn(value.shape) for name, value in state.items()} | {"steps": torch.tensor([1, 2, 3])}
    return {**state, "head.weight": state["embed.weight"].clone()}


def resumable(folder, wanted):
    """The bundle of a training that has made a step."""
    model = rank_process.Net()
    model.load_state_dict(wanted)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.arange(4)).backward()
    optimizer.step()
    torch.save(
        {"model_state_dict": wanted, "optimizer_state_dict": optimizer.state_dict(), "epoch": 1}, folder / "run.pt"
    )
    document = {"stages": [{"local": {"path": str(folder / "run.pt")}}, {"warmStart": {}}]}
    return prepare(parse(document), Store(folder / "volume"), "test").folder


def play(folder, world):
    wanted = tensors()
    for name, stages in STAGES.items():
        write_bundle(folder / name, wanted, stages)
    write_bundle(folder / "differing-rank1", {**wanted, "wide.weight": wanted["wide.weight"] + 1}, STAGES["differing"])
    write_bundle(folder / "absent", wanted, STAGES["exact"])
    Absence("finetune", AccessDeniedError("no token")).write(folder / "absent-rank1")
    (folder / "resumed").symlink_to(resumable(folder, wanted))
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world),
        "PREHEAT_REPORT": str(folder / "report.json"), "PREHEAT_RANKS_TIMEOUT": "60",
    }  # fmt: skip
    command = [sys.executable, rank_process.__file__, str(folder), str(world)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in range(world)]


@pytest.fixture(scope="module", params=[2, 4], ids=["2 processes", "4 processes"])
def seen(request, tmp_path_factory):
    return play(tmp_path_factory.mktemp("ranks"), request.param)


def of(seen, scenario):
    return [rank[scenario] for rank in seen]


SIZE = sum(value.nbytes for value in tensors().values())


def test_sharded_parameters_get_what_one_process_would(seen):
    for rank in of(seen, "sharded"):
        assert all([rank["equal"], rank["same"], rank["trains"]]), rank
        assert (rank["loaded"], rank["partial"], rank["ranks"]) == (10, 8, len(seen))


def test_each_rank_reads_its_own_bytes_alone(seen):
    ranks = of(seen, "sharded")
    assert all(rank["bytesRead"] <= 1.05 / len(seen) * SIZE for rank in ranks), [
        rank["bytesRead"] / SIZE for rank in ranks
    ]
    tied = 33 * 16 * 4
    assert sum(rank["bytes"] for rank in ranks) == SIZE - tied + (len(seen) - 1) * 24  # the buffer is everybody's


def test_sharded_parameters_of_another_precision_are_cast(seen):
    for rank in of(seen, "sharded_in_bfloat16"):
        assert rank["equal"], rank
        assert rank["cast"] == 9


def test_a_sharded_model_on_the_meta_device_gets_memory_and_values(seen):
    for rank in of(seen, "sharded_from_meta"):
        assert all([rank["equal"], rank["tied"], rank["trains"]]), rank
        assert rank["notes"] == ["gave 9 tensors memory on cpu"]


def test_what_a_meta_model_does_not_find_is_initialised_by_its_module(seen):
    for rank in of(seen, "sharded_with_other_head"):
        assert all([rank["equal"], rank["head"]]), rank
        assert rank["notes"][1:] == ["initialised head by their own method"]
        assert (rank["skipped"], rank["leftInitial"]) == (1, 1)


def test_freezing_and_mismatches_work_on_shards(seen):
    for rank in of(seen, "frozen"):
        assert all([rank["equal"], rank["trains"]]), rank
        assert rank["without_gradient"] == ["embed.weight", "up.weight", "up.bias"]
        assert (rank["skipped"], rank["frozen"]) == (1, 3)


def test_shards_are_cast_as_the_whole_would_be(seen):
    for rank in of(seen, "cast"):
        assert all([rank["equal"], rank["same"], rank["trains"]]), rank
        assert rank["dtypes"] == ["torch.bfloat16", "torch.int64"]


def test_ranks_prune_the_same_weights_whatever_their_random_state(seen):
    first, *others = of(seen, "pruned")
    assert first["zeros"] == 16 * 37 // 2
    assert first["trains"]
    assert all(rank["chosen"] == first["chosen"] for rank in others)


def test_types_that_cannot_be_sharded_together_are_refused_before_anything_is_cast(seen):
    for rank in of(seen, "cast_apart"):
        assert "FSDP shards the parameters of 'the model' together, and they would be BF16 and F32" in rank["error"]
        assert rank["dtypes"] == ["torch.float32"]
    for rank in of(seen, "cast_by_layer"):
        assert rank["dtypes"] == ["torch.float32", "torch.bfloat16"]
        assert rank["equal"]


@pytest.mark.parametrize("scenario", ["tensor_parallel", "both"])
def test_tensor_parallel_parameters_get_their_part(seen, scenario):
    for rank in of(seen, scenario):
        assert rank["equal"], rank
        assert rank["partial"] > 0
        assert rank.get("strided", True) or len(seen) == 2


def test_a_rank_that_holds_nothing_of_a_tensor_reads_nothing_of_it(seen):
    assert all(rank["equal"] for rank in of(seen, "of_one_rank"))


def test_a_wrapped_model_is_known_by_its_plain_names(seen):
    for rank in of(seen, "wrapped"):
        assert rank["equal"], rank
        assert "module.up.weight" in rank["names"]
        assert rank["notes"] == ["10 names matched without their wrappers, such as steps as module.steps"]


def test_flattened_parameters_are_gathered_filled_and_kept(seen):
    for rank in of(seen, "flattened"):
        assert rank["equal"], rank
        assert (rank["loaded"], rank["skipped"]) == (9, 1)
        assert "up.weight" in rank["names"]


def test_a_training_goes_on_with_each_rank_s_part_of_the_optimizers_state(seen):
    for rank in of(seen, "resumed"):
        assert rank["equal"], rank
        assert set(rank["moments"]) == {"DTensor"}
        assert "restored AdamW (8 parameters by position), epoch 1" in rank["notes"]


def test_when_one_rank_fails_all_do_for_its_reason_and_untouched(seen):
    ranks = of(seen, "another_shape_on_one")
    assert {rank["reason"] for rank in ranks} == {"Incompatible"}
    assert all(
        rank["untouched"] and "head.weight (shape [33, 16], model has [5, 16])" in rank["error"] for rank in ranks
    )
    assert ranks[0]["error"].startswith("rank 1: the checkpoint does not fit")


def test_all_ranks_go_on_from_their_initial_weights_when_one_has_no_checkpoint(seen):
    for scenario, reason in (("going_on", "AccessDenied"), ("going_on exact", "Incompatible")):
        for rank in of(seen, scenario):
            assert (rank["strategy"], rank["untouched"], rank["ranks"]) == ("none", True, len(seen)), (reason, rank)


def test_no_rank_goes_on_when_the_model_of_one_was_touched(seen):
    for rank in of(seen, "going_on_too_late"):
        assert rank["strategy"] is None, rank
        assert (rank["reason"], rank["untouched"]) == ("NothingMatched", False)
        assert "the model was touched: do not train with it" in rank["error"]


def test_a_modifier_that_fails_on_one_rank_stops_all(seen):
    for rank in of(seen, "broken_modifier"):
        assert "ValueError: no luck" in rank["error"]


def test_ranks_that_see_different_bytes_stop_before_they_touch_their_models(seen):
    for rank in of(seen, "other_bytes_on_one"):
        assert rank["untouched"]
        assert rank["reason"] == "Incompatible"
        assert (
            "the ranks differ in the checkpoint: rank 0 has s3://models/pretrained.ckpt version etag:abc ("
            in rank["error"]
        )


def test_a_rank_that_stays_away_is_named_after_a_while(seen):
    for number, rank in enumerate(of(seen, "one_that_stays_away")):
        if number != 1:
            assert rank["reason"] == "Timeout"
            assert "rank 1 did not come to apply the checkpoint (open) 1 s after rank" in rank["error"]


def test_ranks_can_be_left_to_themselves(seen):
    assert seen[0]["alone"]["ranks"] == 1
