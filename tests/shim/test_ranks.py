"""What the ranks compare, and how the first one that fails stops the others: a real store, threads for processes."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore, PrefixStore

from preheat.errors import CheckpointError, CheckpointIncompatibleError, CheckpointTimeoutError, NothingMatchedError
from preheat.ranks import Ranks, present


def together(*plays, timeout=20.0):
    """What each of the plays raises, or None; every one is a rank."""
    store = HashStore()
    with ThreadPoolExecutor(len(plays)) as threads:
        ranks = [Ranks(store, number, len(plays), timeout) for number in range(len(plays))]
        return [
            done.exception() for done in [threads.submit(play, rank) for play, rank in zip(plays, ranks, strict=True)]
        ]


def saying(**facts):
    def play(ranks):
        for step in ("open", "match", "load"):
            with ranks.together(step) as said:
                said.update(facts)

    return play


def failing(error, at="match"):
    def play(ranks):
        for step in ("open", "match", "load"):
            with ranks.together(step):
                if step == at:
                    raise error

    return play


def test_ranks_that_say_the_same_go_on():
    assert together(*[saying(checkpoint="a")] * 3) == [None] * 3


def test_a_difference_is_named_on_all_ranks():
    found = together(saying(checkpoint="a"), saying(checkpoint="a"), saying(checkpoint="b"))
    assert {type(error) for error in found} == {CheckpointIncompatibleError}
    assert {str(error) for error in found} == {
        "the ranks differ in the checkpoint: rank 0 has a, rank 2 b. Give all ranks the same bundle and the same model"
    }


def test_ranks_with_other_parts_of_a_model_may_have_loaded_other_tensors():
    first, second = saying(model="a", tensors="1"), saying(model="b", tensors="2")
    assert together(first, second, first) == [None] * 3
    assert all(together(first, second, saying(model="b", tensors="3")))


@pytest.mark.parametrize("at", ["open", "match", "load"])
def test_the_reason_of_one_is_that_of_all(at):
    first, second = together(saying(), failing(NothingMatchedError("no name", remedy="Look"), at))
    assert type(first) is type(second) is NothingMatchedError
    touched = "; the model was touched: do not train with it" if at == "load" else ""
    assert (str(first), str(second)) == (f"rank 1: no name{touched}. Look", "no name. Look")


def test_a_failure_between_two_steps_reaches_those_that_wait():
    def outside(ranks):
        with ranks.together("open"):
            pass
        with ranks.together("load"):
            raise KeyError("x")

    first, second = together(saying(), outside)
    assert type(first) is CheckpointError
    assert str(first) == "rank 1: KeyError: 'x'"  # at `match`, so the model of rank 0 is as it was
    assert type(second) is KeyError


def test_a_rank_that_does_not_come_is_named():
    [first, _] = together(saying(), lambda ranks: None, timeout=0.2)
    assert type(first) is CheckpointTimeoutError
    assert "rank 1 did not come to apply the checkpoint (open) 0.2 s after rank 0" in str(first)


def test_one_process_agrees_with_itself():
    assert present() is None


def test_without_a_rank_there_is_nothing_to_go_on_with():
    [first, _] = together(saying(), lambda ranks: None, timeout=0.2)
    assert CheckpointTimeoutError.continuable
    assert not first.continuable


def test_a_rank_that_may_not_go_on_keeps_the_others_from_it():
    def refused(ranks):
        with ranks.together("go on"):
            raise NothingMatchedError("no name")

    def willing(ranks):
        with ranks.together("go on"):
            pass

    first, second = together(willing, refused)
    assert str(first) == "rank 1: no name"
    assert str(second) == "no name"
    assert together(willing, willing) == [None, None]


def test_what_ranks_that_save_have_said_does_not_pile_up():
    store, heard = HashStore(), []

    def save(number):
        ranks = Ranks(PrefixStore("1", store), number, 2, 20.0, "preheat.save", "save")
        with ranks.together("open"):
            ranks.tell("random", f"of {number}")
        with ranks.together("save"):
            if number == 0:
                heard.extend(ranks.told("random"))
        ranks.leave("open", "save")

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(save, range(2)))
    assert heard == ["of 0", "of 1"]
    assert store.num_keys() == 0


def test_a_rank_that_does_not_come_to_save_is_named():
    ranks = Ranks(HashStore(), 0, 2, 0.1, "preheat.save", "save")
    said = r"rank 1 did not come to save \(open\).*Call preheat\.save at"
    with pytest.raises(CheckpointTimeoutError, match=said), ranks.together("open"):
        pass


def deciding(decide):
    def play(ranks):
        with ranks.together("open") as said:
            said["checkpoint"] = ranks.from_first("open", decide)

    return play


def test_what_the_first_one_decides_holds_for_all_and_nobody_else_is_asked():
    asked = []
    assert together(*[deciding(lambda: asked.append(1) or "a")] * 3) == [None] * 3
    assert asked == [1]


def test_when_the_first_one_cannot_decide_all_stop_for_its_reason():
    def fail():
        raise NothingMatchedError("nothing to begin from")

    found = together(*[deciding(fail)] * 3)
    assert {type(error) for error in found} == {NothingMatchedError}
    assert all("nothing to begin from" in str(error) for error in found)


def test_a_first_one_that_does_not_come_is_named():
    def late(ranks):
        pass

    _, error = together(late, deciding(lambda: "a"), timeout=0.2)
    assert isinstance(error, CheckpointTimeoutError)
    assert "rank 0 did not come" in str(error)
