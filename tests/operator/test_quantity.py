from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat_operator.quantity import checked_quantity, parse_quantity, render_quantity


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("100m", "0.1"),
        ("1", "1"),
        (2, "2"),
        (0.5, "0.5"),
        (".5", "0.5"),
        ("64Mi", str(64 * 1024**2)),
        ("1.5Gi", str(3 * 1024**3 // 2)),
        ("1k", "1000"),
        ("1E", "1000000000000000000"),
        ("1e3", "1000"),
        ("12E-1", "1.2"),
        ("100u", "0.0001"),
    ],
)
def test_a_quantity_is_read_exactly(text: str, amount: str) -> None:
    assert parse_quantity(text) == Decimal(amount)


@pytest.mark.parametrize("text", ["", "m", "1 Gi", "1Gb", "one", "1.2.3", "--1", "1ki"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        parse_quantity(text)


@pytest.mark.parametrize("text", ["-1", "1e3", "1x", ""])
def test_the_resource_accepts_fewer_spellings(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        checked_quantity(text)


@given(st.integers(min_value=0, max_value=10**24))
def test_any_amount_is_read_back(billionths: int) -> None:
    amount = Decimal(billionths).scaleb(-9)
    assert parse_quantity(render_quantity(amount)) == amount


def test_finer_than_a_billionth_is_rounded_up() -> None:
    assert render_quantity(Decimal("0.0000000011")) == "2n"
