"""What each layout finds in a listing: which files are one checkpoint, and whether all of them are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs.folders import found, listed, names, selected

from preheat.blob import Patience
from preheat.errors import CheckpointConfigError, CheckpointLoadError, CheckpointNotFoundError
from preheat.runs import layouts
from preheat.runs.checkpoint import Pointer
from preheat.runs.layouts import lightning, transformers
from preheat.runs.listing import Entry, Listing
from preheat.runs.names import metric_of
from preheat.runs.position import Position
from preheat.runs.selection import Selection, Wanted
from preheat.sources.local import LocalSource

TRAINER = (
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "training_args.bin",
)


def only(*paths: str, layout: str = "auto"):  # type: ignore[no-untyped-def]
    [checkpoint] = found(listed(*paths), layout).checkpoints
    return checkpoint


def test_a_folder_of_preheats_is_complete_with_its_manifest() -> None:
    name = "checkpoints/m_ema=0.9_cp=E1_U10_S40"
    whole = only(
        f"{name}/model.safetensors", f"{name}/state.json", f"{name}/state.safetensors", f"{name}/manifest.json"
    )
    assert (whole.model, whole.info, whole.position) == ("m", "ema=0.9", Position(1, 10, 40))
    assert (whole.training, whole.incomplete, whole.home) == (True, "", "checkpoints")
    cut = only(f"{name}/model.safetensors")
    assert cut.incomplete.startswith("it has no manifest.json")
    assert cut.training is False


def test_what_preheat_is_still_writing_is_not_there() -> None:
    unfinished = listed("c/.m_cp=E1_U1_S1.partial-x/manifest.json", "c/.m_cp=latest.json.partial-x", "c/.m_cp=a.json")
    assert found(unfinished) == found([])


def test_a_folder_of_another_name_counts_when_it_is_finished() -> None:
    assert only("c/before-surgery/manifest.json", "c/before-surgery/model.safetensors").tag == "before-surgery"
    assert found(listed("c/dataset/manifest.json", "c/dataset/a.bin")).checkpoints == ()


def test_parts_that_preheat_saved_are_no_models() -> None:
    files = listed("c/m_cp=E1_U1_S1/manifest.json", "c/m.encoder_cp=E2_U2_S2/manifest.json")
    assert names(selected(files)) == ["c/m_cp=E1_U1_S1/"]
    assert names(selected(files, model="m.encoder")) == ["c/m.encoder_cp=E2_U2_S2/"]
    assert names(selected(files[1:])) == ["c/m.encoder_cp=E2_U2_S2/"]


def composite(tag: str, *kinds: str) -> list[str]:
    return [
        f"upt{'' if kind == 'trainer' else '.' + kind.split('_')[0]}_cp={tag}_{kind.split('_')[-1]}.th"
        for kind in kinds
    ]


EVERY = ("encoder_model", "decoder_model", "encoder_optim", "decoder_optim", "trainer")


def test_a_composite_model_is_one_checkpoint_of_all_its_parts() -> None:
    selection = selected(listed(*composite("E1_U1_S1", *EVERY)), training=True)
    [whole] = selection.checkpoints
    assert (whole.model, whole.name, whole.training) == ("upt", "upt_cp=E1_U1_S1", True)
    assert [entry.path for entry in whole.files] == composite(
        "E1_U1_S1", *sorted(EVERY[:2]), *sorted(EVERY[2:4]), "trainer"
    )
    assert names(selected(listed(*composite("E1_U1_S1", *EVERY)), model="upt.encoder")) == [
        "upt.encoder_cp=E1_U1_S1_model.th"
    ]


def test_a_composite_model_without_one_of_its_parts_is_incomplete() -> None:
    files = listed(*composite("E1_U1_S1", *EVERY), *composite("E2_U2_S2", "encoder_model", "encoder_optim", "trainer"))
    selection = selected(files)
    assert [each.tag for each in selection.checkpoints] == ["E1_U1_S1"]
    [unfit] = selection.unfit
    assert unfit.reason == "it is incomplete: there is no upt.decoder_cp=E2_U2_S2_model.th"


def test_a_frozen_part_has_no_optimizer_and_one_that_was_lost_is_missed() -> None:
    frozen = [kind for kind in EVERY if kind != "decoder_optim"]
    assert selected(listed(*composite("E1_U1_S1", *frozen)), training=True).checkpoints
    lost = listed(*composite("E1_U1_S1", *EVERY), *composite("E2_U2_S2", *frozen))
    [unfit] = selected(lost, training=True).unfit
    assert "there is no upt.decoder_cp=E2_U2_S2_optim.th" in unfit.reason


def test_a_name_with_a_dot_alone_is_a_model() -> None:
    assert [
        each.model for each in found(listed("ab.upt_cp=latest_model.th", "ab.upt_cp=latest_trainer.th")).checkpoints
    ] == ["ab.upt"]


@pytest.mark.parametrize(
    ("name", "position", "metrics"),
    [
        ("last.ckpt", None, {}),
        ("epoch=3-step=400.ckpt", Position(3, 400), {}),
        ("epoch=03-val_loss=0.32-v1.ckpt", Position(3), {"val_loss": 0.32}),
        ("my-model-step=7-val-acc=9.5e-1.ckpt", Position(update=7), {"acc": 0.95}),
        ("anemoi-by_epoch-epoch_003-step_000150.ckpt", Position(3, 150), {}),
        ("anemoi-by_time-epoch_000-step_000020.ckpt", Position(0, 20), {}),
        ("whatever.ckpt", None, {}),
    ],
)
@pytest.mark.parametrize("layout", ["lightning", "anemoi"])
def test_names_of_lightning_and_anemoi(
    name: str, position: Position | None, metrics: dict[str, float], layout: str
) -> None:
    checkpoint = only(name, layout=layout)
    assert (checkpoint.position, checkpoint.metrics, checkpoint.name) == (position, metrics, name)


def test_last_is_last_whatever_its_version() -> None:
    files = listed("epoch=9-step=90.ckpt", "last.ckpt", "last-v1.ckpt")
    assert names(selected(files, "last")) == ["last-v1.ckpt", "last.ckpt"]


def test_anemois_files_for_inference_are_not_for_training() -> None:
    files = listed("run/last.ckpt", "run/inference-last.ckpt")
    assert names(selected(files)) == names(selected(files, "last")) == ["run/last.ckpt"]
    with pytest.raises(CheckpointNotFoundError, match="no training can go on from it"):
        selected(files, "inference-last.ckpt", training=True)


def test_sharded_checkpoints_of_lightning_are_folders() -> None:
    shards = ("epoch=1-step=5.ckpt/.metadata", "epoch=1-step=5.ckpt/__0_0.distcp", "epoch=1-step=5.ckpt/meta.pt")
    files = listed(
        *shards,
        "epoch=2-step=9.ckpt/__0_0.distcp",
        "epoch=0-step=1.ckpt/checkpoint/mp.pt",
        "epoch=0-step=1.ckpt/latest",
    )
    selection = selected(files)
    assert names(selection) == ["epoch=1-step=5.ckpt/", "epoch=0-step=1.ckpt/"]
    assert ".metadata" in selection.unfit[0].reason


def test_a_folder_of_transformers_is_complete_with_the_trainers_state() -> None:
    whole = only(*(f"out/checkpoint-500/{name}" for name in TRAINER))
    assert (whole.position, whole.training, whole.incomplete, whole.home) == (Position(update=500), True, "", "out")
    weights = only("checkpoint-5/model.safetensors", "checkpoint-5/trainer_state.json")
    assert (weights.training, weights.lacks) == (False, ("optimizer.pt",))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (TRAINER[:4], "no trainer_state.json"),
        (TRAINER[1:], "it has no weights"),
        (("model-00001-of-00002.safetensors", "model.safetensors.index.json", *TRAINER[1:]), "1 of 2 files model-"),
    ],
)
def test_a_folder_of_transformers_that_lacks_something_is_incomplete(files: tuple[str, ...], reason: str) -> None:
    assert reason in only(*(f"checkpoint-7/{name}" for name in files)).incomplete


def test_steps_are_numbers_and_the_best_is_what_the_trainer_says() -> None:
    files = listed(*(f"checkpoint-{step}/{name}" for step in (500, 1000, 90) for name in TRAINER))
    assert names(selected(files)) == ["checkpoint-1000/", "checkpoint-500/", "checkpoint-90/"]
    read: list[str] = []

    def said(pointer: Pointer) -> str:
        read.append(pointer.entry.path)
        content = json.dumps({"best_model_checkpoint": "/their/disk/checkpoint-500"}).encode()
        return transformers.named_by(content, metric_of(pointer.tag))

    assert names(Selection.of(found(files), Wanted("best"), "/run/", said)) == ["checkpoint-500/"]
    assert read == ["checkpoint-1000/trainer_state.json"]
    with pytest.raises(ValueError, match="does not keep by which metric"):
        Selection.of(found(files), Wanted("best.eval_loss"), "/run/", said)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"checkpoint": 3}', b'{"best_model_checkpoint": null}', b"\xff"])
@pytest.mark.parametrize("layout", ["preheat", "transformers"])
def test_a_pointer_that_makes_no_sense_is_named(content: bytes, layout: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(content)
    listing = Listing(LocalSource(str(tmp_path)).tree(Patience()))
    with pytest.raises(CheckpointLoadError, match=r"p\.json names no checkpoint"):
        layouts.named_by(listing, Pointer(layout, Entry("p.json", 1, 0), "best"))


@pytest.mark.parametrize(
    ("state", "metric", "named"),
    [
        ({"a": {"monitor": "val/loss", "best_model_path": "/their/disk/e=1.ckpt"}}, "val.loss", "e=1.ckpt"),
        ({"a": {"monitor": "val/loss", "best_model_path": "C:\\disk\\e=1.ckpt"}}, None, "e=1.ckpt"),
        ({"a": {"monitor": "x", "best_model_path": "a"}, "b": {"monitor": "y", "best_model_path": "b"}}, "y", "b"),
    ],
)
def test_the_best_of_lightning_is_what_its_callback_kept(state: object, metric: str | None, named: str) -> None:
    assert lightning.named_by({"callbacks": state}, metric) == named


@pytest.mark.parametrize("state", [None, {}, {"callbacks": {"a": {"monitor": "x", "best_model_path": ""}}}])
def test_where_lightning_kept_no_best_it_says_so(state: object) -> None:
    with pytest.raises(ValueError, match="it knows the best by nothing"):
        lightning.named_by(state, "x")


def test_stacks_are_parts_and_times_order_the_rest() -> None:
    files = listed("progressive_stack_1.pt", "progressive_stack_0.pt", "rack_complete_2.pt", "stack_0.pt", "notes.pt")
    assert names(selected(files)) == ["rack_complete_2.pt", "progressive_stack_0.pt", "progressive_stack_1.pt"]
    assert names(selected(files, "progressive_stack_1")) == ["progressive_stack_1.pt"]
    assert names(selected(files, "stack_0")) == ["stack_0.pt"]
    assert names(selected(files, layout="stackwise"))[0] == "notes.pt", "a builder writes where it is told to"


def test_linnaeus_other_files_are_taken_only_where_it_is_named() -> None:
    files = listed("ckpt_epoch_1.pth", "convnext.pth")
    assert names(selected(files)) == ["ckpt_epoch_1.pth"]
    assert names(selected(files, "convnext", layout="linnaeus")) == ["convnext.pth"]


def test_a_run_that_went_over_to_preheat_goes_on_from_either() -> None:
    files = listed("c/m_cp=E2_U2_S2/manifest.json", "c/m_cp=E1_U1_S1_model.th")
    assert names(selected(files)) == ["c/m_cp=E2_U2_S2/", "c/m_cp=E1_U1_S1_model.th"]
    assert names(selected(files, layout="noether")) == ["c/m_cp=E1_U1_S1_model.th"]


def test_names_that_would_forge_a_log_are_no_names() -> None:
    assert found(listed("ckpt_epoch_1\n2026 loaded.pth", "\x1b[2Jlast.ckpt", "last\u202e.ckpt")).checkpoints == ()
    assert names(selected(listed("läst/épôch=1.ckpt"))) == ["läst/épôch=1.ckpt"]


def test_hidden_folders_are_not_looked_into() -> None:
    hidden = listed(
        ".snapshot/hourly/ckpt_epoch_9.pth", "a/.trash/ckpt_epoch_9.pth", ".tmp/m_cp=E1_U1_S1/manifest.json"
    )
    assert found(hidden).checkpoints == ()
    assert names(selected([*hidden, *listed("e=1.ckpt/.metadata")])) == ["e=1.ckpt/"]


def test_an_unknown_layout_lists_the_known_ones() -> None:
    with pytest.raises(CheckpointConfigError, match="Known: auto, preheat, noether, anemoi"):
        found([], "torch")
