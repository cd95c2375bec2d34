from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat.errors import CheckpointConfigError
from preheat.runs.names import CheckpointName, checked_name, metric_of, same_info
from preheat.runs.position import Position

MODEL = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,20}", fullmatch=True)
TAG = st.from_regex(r"latest|last|best\.[a-z_.]{1,10}|E[0-9]{1,4}_U[0-9]{1,4}_S[0-9]{1,4}", fullmatch=True)
INFO = st.from_regex(r"|ema=0\.[0-9]{1,4}|ema_factor=0\.[0-9]{1,4}", fullmatch=True)


@given(MODEL, TAG, INFO)
def test_what_is_written_is_read(model: str, tag: str, info: str) -> None:
    name = checked_name(model, tag, info)
    assert CheckpointName.parse(str(name)) == name == CheckpointName(model, tag, info)


@given(MODEL, TAG, INFO)
def test_the_order_of_noethers_first_version_is_read_too(model: str, tag: str, info: str) -> None:
    behind = f"_{info}" if info else ""
    assert CheckpointName.parse(f"{model}_cp={tag}{behind}") == CheckpointName(model, tag, info)


@pytest.mark.parametrize(
    ("stem", "parts"),
    [
        ("x_cp=latest_ema=0.9999", ("x", "latest", "ema=0.9999")),
        ("ab-upt_ema_factor=0.9999_cp=best.accuracy", ("ab-upt", "best.accuracy", "ema_factor=0.9999")),
        ("m_cp=best_model.val_loss.tolerance=5", ("m", "best_model.val_loss.tolerance=5", "")),
        ("m_cp=best_model.val_loss_ema=0.99", ("m", "best_model.val_loss", "ema=0.99")),
        ("my_model_swa=1_cp=E1_U2_S3", ("my_model", "E1_U2_S3", "swa=1")),
        ("m_cp=E1_U2_S3_swa=1", ("m", "E1_U2_S3", "swa=1")),
        ("upt.encoder_cp=E2_U25_S100.signal_interrupt", ("upt.encoder", "E2_U25_S100.signal_interrupt", "")),
    ],
)
def test_real_names(stem: str, parts: tuple[str, str, str]) -> None:
    assert CheckpointName.parse(stem) == CheckpointName(*parts)


@pytest.mark.parametrize("stem", ["", "model", "_cp=latest", "m_cp=", "hp_resolved"])
def test_other_names_are_none(stem: str) -> None:
    assert CheckpointName.parse(stem) is None


def test_a_signal_is_told_from_a_position() -> None:
    name = CheckpointName("m", "E2_U25_S100.signal_interrupt")
    assert (name.position, name.interrupted) == (Position(2, 25, 100), True)
    assert not CheckpointName("m", "latest.signal_interrupt").interrupted


@pytest.mark.parametrize(
    ("model", "tag", "info"),
    [("a_cp=b", "last", ""), ("a", "last", "no pair"), ("a_ema=1", "last", ""), ("../a", "last", ""), ("", "last", "")],
)
def test_a_name_that_would_be_read_as_another_is_refused(model: str, tag: str, info: str) -> None:
    with pytest.raises(CheckpointConfigError, match="would not be read back"):
        checked_name(model, tag, info)


def test_variants_are_the_same_whatever_they_are_called() -> None:
    assert same_info("ema=0.9999", "ema_factor=0.99990")
    assert not same_info("ema=0.9999", "ema=0.999")
    assert not same_info("", "ema=0.9")
    assert same_info("", "")


def test_the_metric_of_a_best_one() -> None:
    assert metric_of("best.loss/test/total") == metric_of("best_model.loss.test.total") == "loss.test.total"
    assert metric_of("best_model.loss.tolerance=5") == "loss.tolerance=5"
    assert metric_of("latest") is None
