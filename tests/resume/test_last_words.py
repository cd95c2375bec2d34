"""What stands in a container's termination message when its process died on a checkpoint, and what does not."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from preheat.resume.last_words import LastWords, words

SAID = {"run": "s3://runs/exp-7/", "checkpoint": "model_cp=E3_U3", "saved": 3.0, "began": 4.0}


@pytest.fixture
def message(tmp_path: Path) -> Path:
    """As the kubelet makes it before a container starts."""
    (tmp_path / "termination-log").touch()
    return tmp_path / "termination-log"


def test_who_dies_has_said_on_what(message: Path) -> None:
    LastWords(message).begin(SAID, "abc", 0)
    assert words(message.read_text()) == {**SAID, "start": "abc", "ranks": [0]}


def test_who_ends_in_order_leaves_nothing(message: Path) -> None:
    spoken = LastWords(message).begin(SAID, "abc", 0)
    spoken.remove()
    spoken.remove()
    assert message.read_text() == ""


def _begin(message: Path, rank: int) -> None:
    spoken = LastWords(message).begin(SAID, "abc", rank)
    if rank != 3:
        spoken.remove()


def test_of_the_ranks_of_a_container_one_that_dies_is_enough(message: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    ranks = [spawn.Process(target=_begin, args=(message, rank)) for rank in range(8)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(20)
    assert words(message.read_text()) == {**SAID, "start": "abc", "ranks": [3]}


def test_the_last_one_of_a_container_counts_where_its_launcher_starts_several(message: Path) -> None:
    first = LastWords(message).begin(SAID, "abc", 0)
    LastWords(message).begin(SAID, "def", 1)
    first.remove()
    assert words(message.read_text()) == {**SAID, "start": "def", "ranks": [1]}


def test_a_message_of_the_training_is_left_alone(message: Path) -> None:
    message.write_text("loss is NaN")
    with pytest.raises(FileExistsError):
        LastWords(message).begin(SAID, "abc", 0)
    assert message.read_text() == "loss is NaN"


def test_what_the_training_adds_stays(message: Path) -> None:
    spoken = LastWords(message).begin(SAID, "abc", 0)
    with message.open("a") as file:
        file.write("loss is NaN")
    assert words(message.read_text())["start"] == "abc"
    spoken.remove()
    assert message.read_text() == "loss is NaN"
    message.write_text("loss is NaN")
    spoken.remove()
    assert message.read_text() == "loss is NaN"


def test_outside_of_a_container_no_message_is_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LastWords(tmp_path / "termination-log").begin(SAID, "abc", 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "Killed", "{", "[]", '{"preheat": 3}', '{"outcome": "loaded"}', "[" * 4096])
def test_what_is_no_word_of_ours_is_none(text: str) -> None:
    assert words(text) == {}
