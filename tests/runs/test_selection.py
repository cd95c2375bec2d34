"""The rules by which a checkpoint is selected, and the traps of the four systems that they end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs.folders import found, listed, names, selected

from preheat.errors import CheckpointConfigError, CheckpointLoadError, CheckpointNotFoundError
from preheat.runs.checkpoint import Pointer
from preheat.runs.listing import Entry
from preheat.runs.order import newest_first
from preheat.runs.selection import Selection, Wanted

NOETHER = ("E1_U10_S40", "E2_U20_S80", "E2_U25_S100.signal_interrupt", "E3_U30_S120")


def noether(*tags: str, model: str = "m", kinds: Sequence[str] = ("model", "optim", "trainer")) -> list[Entry]:
    return listed(*(f"checkpoints/{model}_cp={tag}_{kind}.th" for tag in tags for kind in kinds))


def test_the_newest_is_first_by_its_position_whatever_the_times_say() -> None:
    """A copy has new times; linnaeus takes the newest of them."""
    entries = list(reversed(listed("ckpt_epoch_9.pth", "ckpt_epoch_10.pth", "ckpt_epoch_2.pth")))
    assert names(selected(entries)) == ["ckpt_epoch_10.pth", "ckpt_epoch_9.pth", "ckpt_epoch_2.pth"]


def test_one_without_a_position_is_as_new_as_its_file() -> None:
    files = [Entry("ckpt_epoch_1.pth", 1, 10), Entry("ckpt_epoch_2.pth", 1, 20), Entry("latest.pth", 1, 15)]
    assert names(selected(files)) == ["ckpt_epoch_2.pth", "latest.pth", "ckpt_epoch_1.pth"]
    newer = [*files[:2], Entry("latest.pth", 1, 21)]
    assert names(selected(newer))[0] == "latest.pth"
    of_the_same_save = [*files[:2], Entry("latest.pth", 1, 20)]
    assert names(selected(of_the_same_save))[0] == "ckpt_epoch_2.pth", "nobody writes it anew while it is read"


@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=12))
def test_the_order_of_the_listing_does_not_matter(seed: int, ages: list[tuple[int, int]]) -> None:
    """Upstream takes what the directory gives first."""
    files = {f"v{n}-epoch={epoch}.ckpt" if epoch else f"v{n}.ckpt": when for n, (epoch, when) in enumerate(ages)}
    entries = [Entry(path, 1, float(when)) for path, when in files.items()]
    shuffled = random.Random(seed).sample(entries, len(entries))
    in_order = [newest_first(found(each).checkpoints) for each in (entries, shuffled)]
    assert in_order[0] == in_order[1]


def test_equal_ones_are_ordered_by_their_names_with_numbers_by_value() -> None:
    same = [Entry(f"epoch=1-step=5{version}.ckpt", 1, 7) for version in ("", "-v1", "-v2", "-v10")]
    assert names(selected(same)) == [f"epoch=1-step=5{version}.ckpt" for version in ("-v10", "-v2", "-v1", "")]


@pytest.mark.parametrize(
    ("select", "tags"),
    [
        ("E2", ["E2_U20_S80", "E2_U25_S100.signal_interrupt"]),
        ("U25", ["E2_U25_S100.signal_interrupt"]),
        ("S120", ["E3_U30_S120"]),
        ("E2_U20_S80", ["E2_U20_S80"]),
        ("E2_U20", ["E2_U20_S80"]),
        ("E2_U25_S100.signal_interrupt", ["E2_U25_S100.signal_interrupt"]),
        ("latest", ["E3_U30_S120", "E2_U25_S100.signal_interrupt", "E2_U20_S80", "E1_U10_S40"]),
    ],
)
def test_positions_select_whole_epochs_before_what_a_signal_saved(select: str, tags: list[str]) -> None:
    """Upstream picks the interrupt for E2, refuses the full position, and cannot address the interrupt at all."""
    entries = noether(*NOETHER)
    random.Random(1).shuffle(entries)
    assert names(selected(entries, select)) == [f"checkpoints/m_cp={tag}_model.th" for tag in tags]


@pytest.mark.parametrize("select", ["E1_0", "E-1", "E 1", "Ebest", "s40", "E9", "../m"])
def test_what_is_no_position_of_the_run_is_an_error_with_what_there_is(select: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"select: .*there are .*E3_U30_S120"):
        selected(noether(*NOETHER), select)


def test_a_position_in_small_letters_is_explained() -> None:
    with pytest.raises(CheckpointNotFoundError, match="Positions are written S40"):
        selected(noether(*NOETHER), "s40")


def test_a_latest_without_optimizer_is_passed_over_by_a_training_and_taken_for_its_weights() -> None:
    """The defaults of Noether's callback leave out the optimizer of `latest`, and resuming fails there."""
    entries = [
        *noether("E1_U10_S40"),
        *listed(*(f"checkpoints/m_cp=latest_{k}.th" for k in ("model", "trainer")), at=999),
    ]
    assert names(selected(entries))[0] == "checkpoints/m_cp=latest_model.th"
    selection = selected(entries, training=True)
    assert names(selection) == ["checkpoints/m_cp=E1_U10_S40_model.th"]
    assert [str(unfit) for unfit in selection.unfit] == [
        "checkpoints/m_cp=latest_model.th: no training can go on from it: there is no m_cp=latest_optim.th"
    ]


def test_the_position_is_that_of_the_file_itself() -> None:
    """Upstream takes the position from any file of the folder, and may name a file that is not there."""
    entries = [*noether("E2_U25_S100.signal_interrupt"), *listed("checkpoints/other_cp=E2_U20_S80_model.th")]
    assert names(selected(entries, "E2", model="m")) == ["checkpoints/m_cp=E2_U25_S100.signal_interrupt_model.th"]


@pytest.mark.parametrize("select", ["best.loss.test", "best_model.loss.test", "best.loss/test"])
@pytest.mark.parametrize("written", ["best", "best_model"])
def test_the_best_is_found_under_both_names(select: str, written: str) -> None:
    entries = noether("latest", f"{written}.loss.test", f"{written}.loss.test.tolerance=3", kinds=["model"])
    assert names(selected(entries, select)) == [f"checkpoints/m_cp={written}.loss.test_model.th"]
    assert names(selected(entries, f"{select}.tolerance=3")) == [
        f"checkpoints/m_cp={written}.loss.test.tolerance=3_model.th"
    ]


def test_the_best_is_never_the_latest_and_no_training_goes_on_from_it() -> None:
    entries = [*noether("E1_U10_S40"), *listed("checkpoints/m_cp=best_model.loss_model.th", at=999)]
    assert names(selected(entries)) == ["checkpoints/m_cp=E1_U10_S40_model.th"]
    with pytest.raises(CheckpointNotFoundError, match=r"there is no m_cp=best_model.loss_optim.th.*weightsOnly"):
        selected(entries, "best.loss", training=True)


@pytest.mark.parametrize("info", ["ema=0.9999", "ema_factor=0.9999"])
@pytest.mark.parametrize("name", ["m_ema=0.9999_cp=latest", "m_ema_factor=0.9999_cp=latest", "m_cp=latest_ema=0.9999"])
def test_averages_are_found_under_every_name_and_never_instead_of_the_raw_weights(info: str, name: str) -> None:
    entries = listed("m_cp=latest_model.th", f"{name}_model.th")
    assert names(selected(entries, info=info)) == [f"{name}_model.th"]
    assert names(selected(entries)) == ["m_cp=latest_model.th"]
    with pytest.raises(CheckpointNotFoundError, match=r"no checkpoint with info 'ema=0.5'; there are .*ema"):
        selected(entries, info="ema=0.5")
    with pytest.raises(CheckpointNotFoundError, match="no training can go on from it"):
        selected([*entries, *noether("latest")], info=info, training=True)


def test_models_are_told_apart_and_several_have_to_be_named() -> None:
    entries = [*noether("latest"), *noether("E1_U10_S40", model="other")]
    with pytest.raises(CheckpointConfigError, match=r"2 models: m, other\. Say which with `model`"):
        selected(entries)
    assert names(selected(entries, model="other")) == ["checkpoints/other_cp=E1_U10_S40_model.th"]
    with pytest.raises(CheckpointNotFoundError, match="no checkpoint of model 'mm'; there are those of m, other"):
        selected(entries, model="mm")


def test_the_runs_own_folder_counts_then_its_checkpoints_then_the_only_one() -> None:
    inner, own = "checkpoints/ckpt_epoch_5.pth", "ckpt_epoch_1.pth"
    deep = "a/b/ckpt_epoch_9.pth"
    assert names(selected(listed(inner, own, deep))) == [own]
    assert names(selected(listed(inner, deep))) == [inner]
    assert names(selected(listed(deep))) == [deep]
    with pytest.raises(CheckpointConfigError, match=r"in 2 folders: pretrain/c, finetune/c\. Say .* runId and stage"):
        selected(listed("pretrain/c/ckpt_epoch_1.pth", "finetune/c/ckpt_epoch_1.pth"))


def test_extremes_of_what_names_tell() -> None:
    entries = listed(*(f"epoch={n}-val_loss={loss}.ckpt" for n, loss in enumerate(("0.50", "0.2", "0.2", "1e-1"))))
    assert names(selected(entries, "min.val_loss"))[0] == "epoch=3-val_loss=1e-1.ckpt"
    assert names(selected(entries[:3], "min.val_loss"))[0] == "epoch=2-val_loss=0.2.ckpt", "the newer of two equal ones"
    assert names(selected(entries, "max.val_loss"))[0] == "epoch=0-val_loss=0.50.ckpt"


def test_the_best_by_a_metric_that_nobody_kept_is_told_what_names_tell() -> None:
    def unknown(pointer: Pointer) -> str:
        raise CheckpointLoadError(f"it knows no {pointer.tag}", remedy="Select another one")

    files = found(listed("epoch=1-val_loss=0.50.ckpt"))
    with pytest.raises(CheckpointLoadError, match=r"no best\.val_loss\. .*select min\.val_loss or max\.val_loss"):
        Selection.of(files, Wanted("best.val_loss"), "/run/", unknown)
    with pytest.raises(CheckpointLoadError, match=r"Select another one"):
        Selection.of(files, Wanted("best.other"), "/run/", unknown)


def test_an_incomplete_one_is_never_chosen_and_the_reason_is_told() -> None:
    entries = [*listed("ckpt_epoch_1.pth"), Entry("ckpt_epoch_2.pth", 0, 200)]
    selection = selected(entries)
    assert names(selection) == ["ckpt_epoch_1.pth"]
    assert [str(unfit) for unfit in selection.unfit] == [
        "ckpt_epoch_2.pth: it is incomplete: ckpt_epoch_2.pth is empty"
    ]
    with pytest.raises(CheckpointNotFoundError, match=r"Passed over: .*is empty.*Wait until one is finished"):
        selected(entries[1:])


def test_a_name_selects_what_nothing_else_does() -> None:
    entries = listed("inference-last.ckpt", "last.ckpt", "stack_0.pt")
    for entry in entries:
        assert names(selected(entries, entry.name)) == [entry.path]
    assert names(selected(entries)) == ["last.ckpt"]


def test_pointers_are_read_only_when_they_are_meant() -> None:
    names_of = ["m_cp=E1_U10_S40", "m_cp=E2_U20_S80"]
    entries = listed(*(f"checkpoints/{name}/manifest.json" for name in names_of))
    entries += listed("checkpoints/m_cp=best.loss.json", "checkpoints/m_cp=gone.json")
    assert names(selected(entries)) == [f"checkpoints/{name}/" for name in reversed(names_of)]
    said = {"best.loss": names_of[0], "gone": "m_cp=E9_U90_S9"}
    best = Selection.of(found(entries), Wanted("best.loss"), "/run/", lambda pointer: said[pointer.tag])
    assert names(best) == ["checkpoints/m_cp=E1_U10_S40/"]
    with pytest.raises(CheckpointNotFoundError, match=r"gone\.json names 'm_cp=E9_U90_S9', which is not there"):
        Selection.of(found(entries), Wanted("gone"), "/run/", lambda pointer: said[pointer.tag])


def test_ten_thousand_names_are_no_matter() -> None:
    entries = [
        replace(each, modified=n % 7) for n, each in enumerate(noether(*(f"E{n}_U{n}_S{n}" for n in range(3334))))
    ]
    selection = selected(entries, training=True)
    assert len(selection.checkpoints) == 3334
    assert selection.checkpoints[0].tag == "E3333_U3333_S3333"
