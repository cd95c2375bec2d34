"""Pickles are read as Python reads them, without doing anything that they say."""

from __future__ import annotations

import contextlib
import datetime
import os
import pickle
import struct
import time
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
from formats.samples import Call, checkpoint_of, index_of, pickled
from hypothesis import given, settings
from hypothesis import strategies as st

from preheat.errors import CheckpointError, CheckpointLoadError, TruncatedError, UnsupportedFormatError
from preheat.formats.inert.reader import read_pickle
from preheat.formats.inert.values import FROZENSET, SET, Global, Key, Node, check_tree


def refuse(identity: Any) -> Any:
    raise CheckpointLoadError("a storage")


def read(data: bytes) -> Any:
    return read_pickle(data, {}, refuse).value


def alive(value: Any) -> Any:
    """What Python would have made of inert plain values."""
    if isinstance(value, dict):
        return {alive(key): alive(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(alive(inner) for inner in value)
    if isinstance(value, Key):
        return alive(value.value)
    if isinstance(value, Node):
        return alive_node(value)
    return value


def alive_node(node: Node) -> Any:
    if node.callee in (SET, FROZENSET):
        make = set if node.callee == SET else frozenset
        return make(map(alive, node.items or (node.args[0] if node.args else ())))
    if node.name == "_codecs.encode":
        return node.args[0].encode("latin1")
    if node.name == "builtins.bytes":
        return bytes(*node.args)
    raise AssertionError(node)


atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
hashable = st.recursive(
    atoms | st.complex_numbers(allow_nan=False), lambda inner: st.tuples(inner, inner), max_leaves=4
)
plain = st.recursive(
    hashable | st.sets(hashable, max_size=3) | st.frozensets(hashable, max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(hashable, inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=150, deadline=None)
@given(value=plain, protocol=st.integers(0, 5))
def test_plain_values_are_read_as_python_reads_them(value: Any, protocol: int) -> None:
    assert alive(read(pickle.dumps(value, protocol))) == value


@settings(max_examples=50, deadline=None)
@given(value=plain, protocol=st.integers(0, 5))
def test_the_python_pickler_and_the_c_pickler_are_both_understood(value: Any, protocol: int) -> None:
    assert alive(read(pickle._dumps(value, protocol))) == value


@pytest.mark.parametrize("protocol", range(6))
def test_ordered_dictionaries_are_dictionaries(protocol: int) -> None:
    assert read(pickle.dumps(OrderedDict(b=1, a=2), protocol)) == {"b": 1, "a": 2}


@pytest.mark.parametrize("protocol", range(6))
def test_objects_stay_nodes_with_their_names_and_contents(protocol: int) -> None:
    node = read(pickle.dumps(datetime.timedelta(3), protocol))
    assert (node.name, node.args) == ("datetime.timedelta", (3, 0, 0))
    node = read(pickle.dumps(defaultdict(list, a=[1]), protocol))
    assert (node.name, node.args, node.pairs) == (
        "collections.defaultdict",
        (Global("builtins", "list"),),
        [("a", [1])],
    )


PYTHON_2 = b"\x80\x02ccollections\nOrderedDict\n](](U\1bK\1e](U\1aK\2ee\x85R."


def test_ordered_dictionaries_of_python_2_are_dictionaries() -> None:
    assert list(read(PYTHON_2).items()) == list(pickle.loads(PYTHON_2).items()) == [("b", 1), ("a", 2)]


def test_an_ordered_dictionary_is_not_made_of_the_same_items_twice() -> None:
    many = (
        b"\x80\x02]q\1("
        + b"]NaNa" * 50_000
        + b"e0"
        + b"ccollections\nOrderedDict\nq\0h\1\x85R0"
        + b"h\0h\1\x85R0" * 50_000
    )
    start = time.process_time()
    with pytest.raises(CheckpointLoadError, match="something else than pairs"):
        read(many + b"N.")
    assert time.process_time() - start < 2


def test_shared_values_stay_shared() -> None:
    shared = [1]
    one, other = read(pickle.dumps([shared, shared]))
    assert one is other


def canaries(path: Path) -> dict[str, bytes]:
    """Pickles that would create `path`, were they given to Python."""
    text = str(path).encode()
    module = os.system.__module__.encode()
    command = b"touch " + text
    short = struct.pack("<I", len(command)) + command
    code = f"open({str(path)!r}, 'w')".encode()
    return {
        "reduce": pickled(Call(os.system, (command.decode(),))),
        "reduce, protocol 4": pickled(Call(os.system, (command.decode(),)), 4),
        "instance": b"(S'" + command + b"'\ni" + module + b"\nsystem\n.",
        "object": b"(c" + module + b"\nsystem\nX" + short + b"o.",
        "new": b"\x80\x02c" + module + b"\nsystem\nX" + short + b"\x85\x81.",
        "new with keywords": b"\x80\x04c" + module + b"\nsystem\nX" + short + b"\x85}\x92.",
        "eval": pickled(Call(eval, (code.decode(),))),
        "exec, then thrown away": pickled(Call(exec, (code.decode(),)))[:-1] + b"0}.",
        "in hyper-parameters": pickled(
            {"state_dict": {}, "hyper_parameters": {"x": Call(os.system, (command.decode(),))}}
        ),
        "open": pickled(Call(open, (str(path), "w"))),
    }


@pytest.mark.parametrize("kind", canaries(Path("x")))
def test_code_in_a_pickle_never_runs_and_is_reported(kind: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(CheckpointLoadError, match=r"calls .* would run code .* did not run it"):
        index_of(checkpoint_of(canaries(canary)[kind]))
    assert not canary.exists()


def test_the_canary_is_alive(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(canaries(canary)["reduce"])
    assert canary.exists()


def test_code_by_way_of_other_names_does_not_run_either(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    import operator

    hidden = Call(operator.methodcaller("touch").__class__, ("touch",))
    node = read(pickled(Call(map, (hidden, [canary])), 4))
    assert node.name == "builtins.map"
    assert not canary.exists()


BOMBS = {
    "shared lists": b"\x80\x02]q\0" + b"".join(b"](h\0h\0eq\0" for _ in range(40)) + b"0" * 40 + b"h\0.",
    "shared tuples": b"\x80\x02)q\0" + b"h\0h\0\x86q\0" * 40 + b"0" * 40 + b"h\0.",
    "list in itself": b"\x80\x02]q\0h\0a.",
    "dictionary in itself": b"\x80\x02}q\0X\1\0\0\0ah\0s.",
    "deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_end_quickly(kind: str) -> None:
    start = time.process_time()
    with pytest.raises(CheckpointLoadError):
        index_of(checkpoint_of(BOMBS[kind]))
    assert time.process_time() - start < 2


def test_a_nested_tuple_as_a_key_is_never_hashed() -> None:
    bomb = b"\x80\x02)q\0" + b"h\0h\0\x86q\0" * 40 + b"0" * 40 + b"}h\0K\1s."
    assert list(read(b"\x80\x02}" + bomb[2:].removesuffix(b"}h\0K\1s.") + b"K\1s.").values()) == [1]


def test_integer_keys_that_collide_end_quickly() -> None:
    modulus = (1 << 61) - 1
    start = time.process_time()
    count = len(read(pickle.dumps({number * modulus: 0 for number in range(1, 3000)})))
    assert (count, time.process_time() - start < 1) == (2999, True)


@pytest.mark.parametrize(
    ("opcodes", "feature"),
    [
        (b"\x82\1", "EXT1"),
        (b"\x83\1\0", "EXT2"),
        (b"\x84\1\0\0\0", "EXT4"),
        (b"\x97", "NEXT_BUFFER"),
        (b"N\x98", "READONLY"),
    ],
)
def test_features_that_reach_outside_the_file_are_refused_by_name(opcodes: bytes, feature: str) -> None:
    with pytest.raises(UnsupportedFormatError, match=feature):
        read(b"\x80\x05" + opcodes + b".")


@pytest.mark.parametrize(
    "garbage",
    [
        b".", b"0.", b"a.", b"s.", b"N)R.", b"]K\1b.", b"h\7.", b"g9\n.", b"\xff", b"(K\1", b"(K\1d.", b"K\1K\2.", b"(",
        b"t.", b"\x85.", b"I" + b"9" * 5000 + b"\n.", b"Ix\n.", b"Fx\n.", b"S'\n.", b"S'a\n.", b"S'\\q'\n.",
        b"V\\u12\n.", b"X\1\0\0\0\xff.", b"c\xff\nx\n.", b"K\1K\2\x93.", b"\x8b\0\0\0\x7f", b"\x8a\xff" + b"1" * 255,
        b"K\1K\2s.", b"u.", b"(K\1K\2u.", b"\x80\x06.", b"\x95\xff\0\0\0\0\0\0\0.", b"K\1Q.", b"Px\n.", b"N(o.", b"(o.",
        b"\x8e" + b"\xff" * 8, b"cbuiltins\ncomplex\nX\1\0\0\0aX\1\0\0\0b\x86R.", b"cbuiltins\ncomplex\n)R.",
        b"]\x94p-1\n.", b"N\x92.", b"\x90.",
    ],
)  # fmt: skip
def test_garbage_is_refused_where_it_stands(garbage: bytes) -> None:
    with pytest.raises(CheckpointLoadError, match=r"byte|storage|protocol"):
        read(garbage)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=60))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(CheckpointError):
        check_tree(read(data + b"."))


opcodes = st.sampled_from([bytes([code]) for code in b"(.012NK]})tleuasdbRQo\x85\x86\x87\x88\x8f\x90\x91\x94\x81\x92"])


@settings(max_examples=300, deadline=None)
@given(program=st.lists(opcodes | st.just(b"h\0") | st.just(b"cx\ny\n"), max_size=40))
def test_random_programs_never_raise_anything_else(program: list[bytes]) -> None:
    with contextlib.suppress(CheckpointError):
        check_tree(read(b"".join(program) + b"."))


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_cut_anywhere_says_so(protocol: int) -> None:
    value = {"text": "x" * 300, "list": [1, 2.5, None, b"bytes", 1 << 70], "object": datetime.timedelta(3)}
    data = pickle.dumps(value, protocol)
    for length in range(len(data)):
        with pytest.raises((TruncatedError, CheckpointLoadError)):
            read(data[:length])
    with pytest.raises(TruncatedError, match=f"ends at byte {len(data) - 1}"):
        read(data[:-1])


def test_the_number_of_opcodes_is_bounded() -> None:
    with pytest.raises(CheckpointLoadError, match="more than 100 opcodes"):
        read_pickle(b"N0" * 100 + b"N.", {}, refuse, max_opcodes=100)


def test_names_cannot_write_to_a_terminal() -> None:
    assert "\x1b" not in str(Global("a\x1b[31m", "b\n"))
