"""Which checkpoint a start goes on from: the best that nothing speaks against, and a reason for every better one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat.errors import (
    AccessDeniedError,
    CheckpointNotFoundError,
    CheckpointSourceError,
    CheckpointValidationError,
    NoSpaceError,
    TruncatedError,
)
from preheat.resume.decision import Candidate, Start, decide, failures
from preheat.resume.settings import Resume
from preheat.runs.position import Position
from preheat.sources.local import LocalSource

RUN = LocalSource("/output/exp-7")


def resume(**settings):
    return Resume(from_=RUN, **settings)


def candidate(name, modified=0.0, update=None):
    return Candidate(name, modified, None if update is None else Position(update=update))


def use(candidate):
    return candidate.name.upper()


NEWEST, OLDER, OLDEST = (candidate(name, at) for name, at in (("c", 30.0), ("b", 20.0), ("a", 10.0)))


def died(checkpoint, *times, first=0):
    return [Start(str(first + number), checkpoint, time) for number, time in enumerate(times)]


def test_the_first_is_taken_where_nothing_speaks_against_it():
    decision = decide([NEWEST, OLDER], [], resume(), use)
    assert (decision.taken, decision.used, decision.passed) == (NEWEST, "C", ())


def test_without_a_checkpoint_nothing_is_taken():
    assert decide([], died("gone", 1.0), resume(), use).taken is None


def test_one_on_which_processes_died_is_poisoned_and_the_next_older_is_taken():
    starts = died("c", 31.0, 32.0, 33.0)
    decision = decide([NEWEST, OLDER], starts, resume(), use)
    assert decision.taken == OLDER
    [passed] = decision.passed
    assert (passed.name, passed.why) == (
        "c", "poisoned: 3 processes died on it, and none came past it"
    )  # fmt: skip
    assert decide([NEWEST, OLDER], starts[:2], resume(), use).taken == NEWEST
    assert decide([NEWEST, OLDER], starts[:1], resume(max_failures=1), use).taken == OLDER
    assert decide([NEWEST, OLDER], starts * 9, resume(max_failures=0), use).taken == NEWEST


def test_ranks_of_one_training_that_dies_die_once():
    ranks = [Start("one", "c", 31.0 + rank) for rank in range(8)]
    assert decide([NEWEST, OLDER], ranks, resume(), use).taken == NEWEST


def test_a_checkpoint_that_was_saved_since_acquits_the_one_before():
    starts = died("b", 21.0, 22.0, 23.0)
    damaged = {"c": CheckpointValidationError("CRC-32 is another")}

    def one_is_damaged(candidate):
        if candidate.name in damaged:
            raise damaged[candidate.name]

    decision = decide([NEWEST, OLDER], starts, resume(), one_is_damaged)
    assert decision.taken == OLDER
    assert [(each.name, each.why) for each in decision.passed] == [("c", "Corrupt: CRC-32 is another")]


def test_only_who_came_to_where_it_is_acquits_a_checkpoint():
    """As when all were poisoned, and the training has begun anew and saved its first."""
    far, first, further = candidate("U9", 10.0, 9), candidate("U1", 30.0, 1), candidate("U10", 30.0, 10)
    starts = died("U9", 21.0, 22.0, 23.0)
    assert decide([far, first], starts, resume(), use).taken == first
    assert decide([replace(far, modified=30.0), first], starts, resume(), use).taken.name == "U9", "saved anew"
    assert not failures(starts, [further, far])


@pytest.mark.parametrize(
    "error", [TruncatedError("cut"), CheckpointNotFoundError("gone"), CheckpointValidationError("NaN")]
)
def test_what_is_wrong_with_one_checkpoint_leaves_the_next(error):
    def fails_once(candidate):
        if candidate is NEWEST:
            raise error

    decision = decide([NEWEST, OLDER], [], resume(), fails_once)
    assert decision.taken == OLDER
    assert decision.passed[0].why == f"{error.reason}: {error.args[0]}"


@pytest.mark.parametrize("error", [AccessDeniedError("no"), CheckpointSourceError("no answer"), NoSpaceError("full")])
def test_what_another_checkpoint_would_not_mend_ends_the_search(error):
    def fails(candidate):
        raise error

    with pytest.raises(type(error)):
        decide([NEWEST, OLDER], [], resume(), fails)


NAMES = "abcdef"
times = st.integers(0, 9).map(float)
found = st.lists(
    st.builds(candidate, st.sampled_from(NAMES), times, st.none() | st.integers(0, 5)),
    max_size=6,
    unique_by=lambda each: each.name,
)
marks = st.lists(st.builds(Start, st.sampled_from("123456"), st.sampled_from(NAMES), times), max_size=12)
settings = st.builds(resume, max_failures=st.integers(0, 3))


@given(found, marks, settings, st.sets(st.sampled_from(NAMES)))
def test_everything_before_the_one_that_is_taken_has_one_reason_and_it_has_none(found, marks, settings, damaged):
    def tried(candidate):
        if candidate.name in damaged:
            raise TruncatedError("cut")

    decision = decide(found, marks, settings, tried)
    position = found.index(decision.taken) if decision.taken else len(found)
    assert [each.name for each in decision.passed] == [each.name for each in found[:position]]
    died = failures(marks, found)
    for each in found[: position + 1]:
        poisoned = bool(settings.max_failures) and died[each.name] >= settings.max_failures
        assert (each is decision.taken) == (not poisoned and each.name not in damaged)


@given(found, marks, times)
def test_a_mark_counts_once_and_never_again_after_a_save(found, marks, later):
    counted = failures(marks, found)
    assert sum(counted.values()) <= len({(mark.id, mark.checkpoint) for mark in marks})
    saved = candidate("new", max([later, *(mark.time for mark in marks)], default=0.0) + 1, 6)
    assert not failures(marks, [*found, saved])
