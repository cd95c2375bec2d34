"""Which weights fit which tensors: tables for each strategy's rules, and properties that hold for any names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat.errors import CheckpointIncompatibleError, NothingMatchedError
from preheat.strategies.matching import Entry, Tolerance, check, match, misfit, prefix_hint

STRICT = Tolerance(missing=False, unexpected=False, mismatched=False)
LOOSE = Tolerance(missing=True, unexpected=True, mismatched=False)
TRANSFER = Tolerance(missing=True, unexpected=True, mismatched=True)
STRICT_TRANSFER = Tolerance(missing=True, unexpected=False, mismatched=True)


def entries(*names, shape=(2,), dtype="F32"):
    return {name: Entry(dtype, shape) for name in names}


def checked(checkpoint, model, tolerance):
    found = match(checkpoint, model)
    check(found, checkpoint, model, tolerance)
    return found


CASES = [
    # name, checkpoint, model, which of STRICT, LOOSE, TRANSFER, STRICT_TRANSFER accept it
    ("equal", entries("a", "b"), entries("a", "b"), (True, True, True, True)),
    ("missing", entries("a"), entries("a", "b"), (False, True, True, True)),
    ("unexpected", entries("a", "b"), entries("a"), (False, True, True, False)),
    ("shape", entries("a") | entries("b", shape=(3,)), entries("a", "b"), (False, False, True, True)),
    ("kind", entries("a") | entries("b", dtype="F32"), entries("a") | entries("b", dtype="I64"),
     (False, False, True, True)),
    ("nothing", entries("x"), entries("a"), (False, False, False, False)),
    ("nothing fits", entries("a", shape=(3,)), entries("a"), (False, False, False, False)),
    ("empty checkpoint", {}, entries("a"), (False, False, False, False)),
    ("empty model", entries("a"), {}, (False, False, False, False)),
]  # fmt: skip


@pytest.mark.parametrize(("checkpoint", "model", "accepted"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
@pytest.mark.parametrize("position", range(4), ids=["strict", "loose", "transfer", "strict transfer"])
def test_each_strategy_accepts_what_its_rules_say(checkpoint, model, accepted, position):
    tolerance = (STRICT, LOOSE, TRANSFER, STRICT_TRANSFER)[position]
    if accepted[position]:
        checked(checkpoint, model, tolerance)
    else:
        with pytest.raises(CheckpointIncompatibleError):
            checked(checkpoint, model, tolerance)


def test_skipped_weights_carry_their_reason():
    checkpoint = entries("a", "old") | entries("head", shape=(3, 4))
    found = checked(checkpoint, entries("a", "new") | entries("head", shape=(5, 4)), TRANSFER)
    assert found.skipped == {"old": "not in the model", "head": "shape [3, 4], model has [5, 4]"}
    assert found.missing == ("new", "head")
    assert found.loaded == ("a",)


def test_shape_mismatches_are_one_error_with_five_names_and_the_count():
    names = [f"layer{i}" for i in range(8)]
    with pytest.raises(CheckpointIncompatibleError) as caught:
        checked(entries(*names, shape=(3,)), entries(*names), LOOSE)
    assert "8 do not fit: layer0 (shape [3], model has [2])" in str(caught.value)
    assert "layer4" in str(caught.value)
    assert "layer5" not in str(caught.value)
    assert "and 3 more" in str(caught.value)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "state.model."])
@pytest.mark.parametrize("wrapped", ["checkpoint", "model"])
def test_nothing_matched_shows_names_and_the_prefix_that_is_in_the_way(prefix, wrapped):
    plain = ("encoder.weight", "encoder.bias", "head.weight")
    sides = {"checkpoint": plain, "model": plain} | {wrapped: tuple(prefix + name for name in plain)}
    with pytest.raises(NothingMatchedError) as caught:
        checked(entries(*sides["checkpoint"]), entries(*sides["model"]), TRANSFER)
    message = str(caught.value)
    assert f"without the prefix {prefix!r} of the {wrapped}'s names 3 of 3 would match" in message
    assert sides["checkpoint"][0] in message
    assert sides["model"][0] in message


def test_there_is_no_hint_when_no_prefix_helps():
    assert prefix_hint(["a.b", "a.c"], ["x.y", "x.z"]) == ""


@pytest.mark.parametrize(
    ("source", "target", "fits"),
    [
        ("F32", "BF16", True), ("BF16", "F64", True), ("I64", "F32", True), ("I32", "I64", True), ("BOOL", "U8", True),
        ("F32", "C64", True), ("F32", "I64", False), ("C64", "F32", False), ("I64", "BOOL", False),
        ("F32", "torch.complex128", False), ("torch.complex128", "torch.complex128", True),
    ],
)  # fmt: skip
def test_precision_may_change_and_kinds_of_numbers_may_not_shrink(source, target, fits):
    assert (misfit(Entry(source, ()), Entry(target, ())) == "") is fits


def test_casts_are_reported():
    found = checked(entries("a", dtype="F32"), entries("a", dtype="BF16"), STRICT)
    assert found.casts == {"a": "F32 -> BF16"}


def test_a_tied_parameter_is_loaded_through_its_other_name():
    tied = {"embed": Entry("F32", (2,), memory=1), "head": Entry("F32", (2,), memory=1), "x": Entry("F32", (2,), 2)}
    found = checked(entries("embed", "x"), tied, STRICT)
    assert found.loaded == ("embed", "head", "x")
    assert found.pairs == ("embed", "x")


SHAPES = st.sampled_from([(), (1,), (2, 3)])
DTYPES = st.sampled_from(["F32", "BF16", "I64", "BOOL"])
SIDES = st.dictionaries(st.sampled_from("abcdefgh"), st.builds(Entry, DTYPES, SHAPES, st.none() | st.integers(0, 2)))


@given(SIDES, SIDES)
def test_every_tensor_of_either_side_ends_in_exactly_one_place(checkpoint, model):
    checkpoint = {name: Entry(entry.dtype, entry.shape) for name, entry in checkpoint.items()}
    found = match(checkpoint, model)
    assert sorted([*found.loaded, *found.missing]) == sorted(model)
    assert sorted([*found.pairs, *found.unexpected, *found.mismatched]) == sorted(checkpoint)
    assert set(found.pairs) <= set(found.loaded)
    assert set(found.casts) <= set(found.pairs)
    assert set(found.skipped) == set(checkpoint) - set(found.pairs)


@given(SIDES, SIDES)
def test_what_one_strategy_accepts_every_more_tolerant_one_accepts(checkpoint, model):
    order = [STRICT, LOOSE, TRANSFER]
    verdicts = []
    for tolerance in order:
        try:
            checked(checkpoint, model, tolerance)
            verdicts.append(True)
        except CheckpointIncompatibleError:
            verdicts.append(False)
    assert verdicts == sorted(verdicts)
