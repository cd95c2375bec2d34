"""What a checkpoint has to hold, told from its index alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formats.samples import BytesBlob, saved

from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError
from preheat.expect import SHOWN, Expect
from preheat.formats import read_index
from preheat.index import Index
from preheat.spelling import build, spell
from preheat.verify import Verify

SHARED = torch.zeros(4, 3)
INDEX = read_index(BytesBlob(saved({"encoder.weight": SHARED, "head.weight": SHARED, "head.bias": torch.zeros(3)})))


def test_a_checkpoint_that_is_as_expected_passes() -> None:
    Expect(
        tensors=3, parameters=15, names=[r"^encoder\.", "bias$"], shapes={"head.weight": [4, 3], "head.bias": [3]}
    ).check(INDEX)


@pytest.mark.parametrize(
    ("expect", "why"),
    [
        ({"tensors": 148}, "it has 3 tensors, expected are 148"),
        ({"parameters": 27}, "it has 15 parameters, expected are 27"),
        ({"names": [r"^decoder\."]}, r"no name matches '\^decoder\\\\.'; there are encoder.weight, head.weight"),
        ({"shapes": {"head.weight": [10, 3]}}, r"'head.weight' has shape \[4, 3\], expected is \[10, 3\]"),
        ({"shapes": {"head.wieght": [4, 3]}}, r"there is no 'head.wieght' \(did you mean 'head.weight'"),
        ({"shapes": {"weight": [4, 3]}}, r"did you mean 'encoder.weight' or 'head.weight'\?"),
    ],
)
def test_what_differs_is_named_with_what_is_there(expect: dict[str, Any], why: str) -> None:
    with pytest.raises(CheckpointIncompatibleError, match=why):
        Expect(**expect).check(INDEX)


def test_all_differences_are_told_at_once_but_not_thousands() -> None:
    with pytest.raises(CheckpointIncompatibleError, match=r"expected are 4; it has 15 parameters, .*; there is no 'x'"):
        Expect(tensors=4, parameters=1, shapes={"x": []}).check(INDEX)
    with pytest.raises(CheckpointIncompatibleError, match="and more") as caught:
        Expect(shapes={f"x{number}": (1,) for number in range(200)}).check(INDEX)
    assert str(caught.value).count("there is no") == SHOWN


def test_an_empty_checkpoint_holds_nothing_that_is_expected() -> None:
    with pytest.raises(CheckpointIncompatibleError, match="there are none"):
        Expect(names=["a"]).check(Index("safetensors", "safetensors", {}))


@pytest.mark.parametrize(
    ("verify", "why"),
    [
        ({"expect": {}}, "give tensors, parameters, names or shapes"),
        ({"expect": {"tensors": 0}}, "below the minimum 1"),
        ({"expect": {"tensors": "3"}}, "'3' is not a number"),
        ({"expect": {"names": "encoder"}}, "give a list"),
        ({"expect": {"names": ["a("]}}, "is not a regular expression"),
        ({"expect": {"shapes": [3]}}, "give shapes by name"),
        ({"expect": {"shapes": {"w": 3}}}, "'w' needs a list of lengths"),
        ({"expect": {"shapes": {"w": [-1]}}}, "'w' needs a list of lengths"),
        ({"expect": {"shape": {"w": [1]}}}, "did you mean 'shapes'"),
        ({"warnOnly": ["finit"]}, "'finit' is none of sha256"),
        ({"warnOnly": ["sha256"]}, "sha256 is not checked, so it cannot warn"),
        ({"finite": False, "warnOnly": ["finite"]}, "finite is not checked"),
        ({"warnOnly": "finite"}, "give a list"),
        ({"md5": "abc"}, "does not match"),
        ({"crc64nvme": "abc"}, "does not match"),
        ({"etag": "two words"}, "does not match"),
        ({"signature": {}}, "give publicKey or authorities"),
    ],
)
def test_a_wrong_stage_says_what_is_wrong(verify: dict[str, Any], why: str) -> None:
    with pytest.raises(CheckpointConfigError, match=why):
        build({"verify": verify})


def test_the_stage_is_spelled_as_it_was_written() -> None:
    written = {
        "crc64nvme": "rosUhgp5mIg=",
        "expect": {"tensors": 3, "shapes": {"w": [1, 2], "scalar": []}},
        "signature": {"publicKey": "-----BEGIN PUBLIC KEY-----\n", "file": "a.sig"},
        "warnOnly": ["expect", "signature"],
    }
    stage = build({"verify": written})
    assert spell(stage) == {"verify": written}
    assert isinstance(stage, Verify)
    assert stage.checks.crc64nvme == "ae8b14860a799888"  # of 123456789, in the catalogue of CRCs
