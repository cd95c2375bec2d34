"""Names of tensors: what is taken, what it is called then, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat.convert import Convert
from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, NothingMatchedError
from preheat.names import Rename

NAMES = ["module.encoder.weight", "module.encoder.bias", "module.head.weight", "module.head.bias"]

words = st.text("abm.", min_size=1, max_size=8)
names = st.lists(words, min_size=1, max_size=12, unique=True)


def test_everything_is_taken_under_its_name_unless_asked_otherwise():
    assert Convert().mapping(NAMES) == dict(zip(NAMES, NAMES, strict=True))


def test_the_steps_follow_one_another_in_a_fixed_order():
    convert = Convert(
        add_prefix="net.",
        rename=[Rename(r"^encoder\.(\w+)", r"block.\1"), Rename("weight$", "w")],
        strip_prefix=["module."],
        exclude=[r"^module\.head"],
    )
    assert convert.mapping(NAMES) == {"net.block.w": NAMES[0], "net.block.bias": NAMES[1]}


def test_select_and_exclude_see_the_checkpoints_names():
    assert list(Convert(select=["encoder", "head"], exclude=["bias$"]).mapping(NAMES)) == [NAMES[0], NAMES[2]]


def test_prefixes_are_taken_off_in_order_and_each_once():
    convert = Convert(strip_prefix=["module.", "_orig_mod."])
    assert list(convert.mapping(["module._orig_mod.a", "module.module.b", "_orig_mod.module.c"])) == [
        *("a", "module.b", "module.c"),
    ]


def test_a_rename_sees_what_the_one_before_it_left():
    assert list(Convert(rename=[Rename("a", "b"), Rename("b", "c")]).mapping(["a", "b1"])) == ["c", "c1"]


def test_a_replacement_is_of_a_pattern_a_text_or_a_whole_name():
    rules = [Rename("a.b", "x"), Rename("a.c", "y", match="substring"), Rename("d", "z", match="exact")]
    assert list(Convert(rename=rules).mapping(["a.b", "a-b1", "a.c", "a-c", "d", "da"])) == [
        *("x", "x1", "y", "a-c", "z", "da"),
    ]


def test_a_text_is_taken_as_it_is():
    rules = [Rename("(a", r"\1", match="substring"), Rename("*", "", match="substring")]
    assert list(Convert(rename=rules).mapping(["(a*"])) == [r"\1"]


def test_what_is_left_out_has_its_reason():
    convert = Convert(select=["weight"], exclude=["^module.head", "head"])
    assert convert.left_out(NAMES) == {
        NAMES[1]: "not selected", NAMES[2]: "excluded by '^module.head'", NAMES[3]: "excluded by '^module.head'",
    }  # fmt: skip


def test_every_name_is_followed_or_left_out():
    convert = Convert(exclude=["head"], strip_prefix=["module."])
    assert convert.follow(NAMES) == {
        NAMES[0]: "encoder.weight",
        NAMES[1]: "encoder.bias",
        NAMES[2]: None,
        NAMES[3]: None,
    }


@pytest.mark.parametrize(
    ("convert", "words"),
    [
        (Convert(select=["^module.encoda"]), r"such as .* \(did you mean 'module\.encoder'"),
        (Convert(rename=[Rename("heads", "x", match="substring")]), "rename 'heads' matches none"),
        (Convert(select=["enkoder"]), "select 'enkoder' matches none of 4 tensors, such as module.encoder.weight"),
        (Convert(select=["encoder", "enkoder"]), "select 'enkoder'"),
        (Convert(exclude=["hed"]), "exclude 'hed' matches none"),
        (Convert(strip_prefix=["modul-"]), "stripPrefix 'modul-' matches none"),
        (Convert(strip_prefix=["module.", "module."]), "stripPrefix 'module.' matches none of 4 tensors, such as enc"),
        (Convert(rename=[Rename("^encoder", "x")]), r"rename '\^encoder' matches none"),
        (Convert(exclude=["module"]), "leave none of the 4 tensors"),
    ],
)
def test_a_pattern_that_matches_nothing_is_named(convert, words):
    with pytest.raises(NothingMatchedError, match=words):
        convert.mapping(NAMES)


def test_a_rename_that_changes_nothing_has_still_matched():
    assert list(Convert(rename=[Rename("encoder", "encoder")]).mapping(NAMES)) == NAMES


def test_two_names_that_become_one_are_both_named():
    with pytest.raises(CheckpointIncompatibleError, match=r"'model\.a' and 'a' both become 'a'"):
        Convert(strip_prefix=["model."]).mapping(["model.a", "a"])


def test_a_name_that_vanishes_is_refused():
    with pytest.raises(CheckpointConfigError, match=r"nothing is left of the name 'model\.'"):
        Convert(strip_prefix=["model."]).mapping(["model.", "model.a"])


def test_a_name_that_grows_without_end_is_refused():
    doubled = [Rename("(.*)", r"\1\1\1\1")] * 64
    with pytest.raises(CheckpointConfigError, match="characters, 4096 may be"):
        Convert(rename=doubled).mapping(["weight"])


@given(names=names, data=st.data())
def test_what_is_not_excluded_is_selected(names, data):
    word = data.draw(st.sampled_from(names))
    pattern = word.replace(".", r"\.")
    names = [*names, "0"]  # so that the pattern never takes all of them
    found = [name for name in names if word in name]
    kept = Convert(exclude=[pattern]).mapping(names)
    chosen = Convert(select=[pattern]).mapping(names)
    assert sorted([*kept, *chosen]) == sorted(names)
    assert list(chosen) == found


@given(names=names, prefix=words)
def test_a_prefix_that_is_added_can_be_stripped(names, prefix):
    added = Convert(add_prefix=prefix).mapping(names)
    stripped = Convert(strip_prefix=[prefix]).mapping(added)
    assert [added[old] for old in stripped.values()] == list(stripped) == names


@given(names=names, old=words, new=words)
def test_a_mapping_loses_no_tensor_and_merges_none(names, old, new):
    convert = Convert(rename=[Rename(old.replace(".", r"\."), new)])
    try:
        found = convert.mapping(names)
    except (NothingMatchedError, CheckpointIncompatibleError):
        renamed = [name.replace(old, new) for name in names]
        assert renamed == names or len(set(renamed)) < len(names)
    else:
        assert list(found) == [name.replace(old, new) for name in names]
        assert list(found.values()) == names
