"""Byte arithmetic of tensors inside records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat.errors import CheckpointValidationError
from preheat.index import ITEMSIZE, Index, Record, Tensor, row_major

shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@given(shapes, st.sampled_from(sorted(ITEMSIZE)))
def test_a_row_major_tensor_is_contiguous_and_reaches_its_size(shape, dtype):
    dense = Tensor(dtype, shape, Record("r", 0, 10**6), strides=row_major(shape))
    assert dense.contiguous
    assert dense.extent() == dense.size


def test_a_transposed_tensor_is_not_contiguous():
    assert not Tensor("F32", (2, 3), Record("r", 0, 24), strides=(1, 2)).contiguous


def test_the_stride_of_a_length_one_axis_does_not_matter():
    assert Tensor("F32", (2, 1, 3), Record("r", 0, 24), strides=(3, 99, 1)).contiguous


@pytest.mark.parametrize(
    ("offset", "strides"),
    [(4, None), (-4, None), (0, (4, 1)), (0, (-3, 1))],
    ids=["end", "start", "strides", "negative"],
)
def test_a_tensor_outside_its_storage_is_named_with_its_bytes(offset, strides):
    tensor = Tensor("F32", (2, 3), Record("data/0", 100, 124), offset=offset, strides=strides)
    with pytest.raises(CheckpointValidationError, match=r"'w' points outside its storage 'data/0'"):
        tensor.check_inside("w")


def test_tied_weights_count_once():
    shared = Tensor("F32", (2, 3), Record("data/0", 0, 24))
    other = Tensor("F32", (5,), Record("data/1", 24, 44))
    index = Index("torch-zip", "raw", {"a": shared, "b": shared, "c": other})
    assert index.parameters == 11


def test_tensors_of_the_training_state_are_found_at_any_depth():
    moment = Tensor("F32", (2,), Record("data/2", 0, 8))
    index = Index("torch-zip", "lightning", {}, state={"optimizer_states": [{"state": {0: {"exp_avg": moment}}}]})
    assert list(index.state_tensors()) == [moment]
