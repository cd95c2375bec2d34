from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat.runs.position import Position

COUNT = st.none() | st.integers(0, 10**18 - 1)
POSITIONS = st.builds(Position, COUNT, COUNT, COUNT)


@given(POSITIONS.filter(lambda position: position != Position()))
def test_what_is_written_is_read(position: Position) -> None:
    assert Position.parse(str(position)) == position


@given(POSITIONS, st.text())
def test_what_follows_a_position_is_told_apart(position: Position, rest: str) -> None:
    found, left = Position.split(f"{position}|{rest}")
    assert (found or Position(), left) == (position, f"|{rest}")


@pytest.mark.parametrize(
    "text",
    ["", "E", "E1_0", "E-3", "E 10", "s200", "Ebest", "E10_", "_E10", "E10S5", "U1_E2", "E\u0661", "E10_U5 ", "latest"],
)
def test_what_is_no_position_is_none(text: str) -> None:
    """Noether reads E1_0 as ten, E-3 as minus three, and E 10 as ten."""
    assert Position.parse(text) is None


def test_a_part_fits_every_position_that_has_it() -> None:
    every = [Position(2, 20, 80), Position(2, 25, 100), Position(12, 120, 480), Position(update=20)]
    assert [position for position in every if Position(epoch=2).fits(position)] == every[:2]
    assert [position for position in every if Position(update=20).fits(position)] == [every[0], every[3]]
    assert Position(2, 20, 80).full
    assert not Position(2, 20).full


def test_updates_decide_before_epochs() -> None:
    every = [Position(epoch=9), Position(1, 10, 40), Position(1, 15), Position(2, 10, 41)]
    assert sorted(every, key=lambda position: position.order) == [every[0], every[1], every[3], every[2]]
