"""Regions of a tensor as byte runs, against what torch cuts; and that only those bytes are read."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shim.bundles import write_bundle

from preheat.bundle.data import open_bundle
from preheat.strategies.filling import moves, reads, staging
from preheat.strategies.filling.fill import fill
from preheat.strategies.filling.lanes import HostLane
from preheat.strategies.filling.moves import Move, part_of
from preheat.strategies.filling.slices import Cut, Spans, region_of, runs_of, shape_of


@st.composite
def cut_shapes(draw):
    shape = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))
    cuts = []
    for _ in range(draw(st.integers(0, 3))):
        parts = draw(st.integers(1, 4))
        axis, index = draw(st.integers(0, len(shape) - 1)), draw(st.integers(0, parts - 1))
        cuts.append(Cut(axis, parts, index, draw(st.integers(1, 3))))
    return tuple(shape), cuts


def chunked(values, cut):
    """What torch makes of a cut: its part of every block."""
    blocks = values.chunk(cut.blocks, cut.axis) if values.shape[cut.axis] else [values]
    held = [block.chunk(cut.parts, cut.axis) for block in blocks]
    empty = values.narrow(cut.axis, 0, 0)
    return torch.cat([parts[cut.index] if cut.index < len(parts) else empty for parts in held], cut.axis)


@given(cut_shapes())
def test_a_region_is_what_torch_cuts_and_its_runs_are_its_elements_in_order(case):
    shape, cuts = case
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    wanted = whole
    for cut in cuts:
        wanted = chunked(wanted, cut)
    region = region_of(shape, cuts)
    assert shape_of(region) == tuple(wanted.shape)
    assert torch.equal(part_of(whole, region), wanted)
    runs = list(runs_of(shape, region))
    assert [place for start, count in runs for place in range(start, start + count)] == wanted.flatten().tolist()
    assert all(count > 0 for _, count in runs)


def test_a_part_of_the_first_axis_is_one_run():
    assert list(runs_of((10, 7), region_of((10, 7), [Cut(0, 4, 1)]))) == [(21, 21)]
    assert list(runs_of((10, 7), region_of((10, 7), [Cut(0, 4, 3)]))) == [(63, 7)]
    assert list(runs_of((2, 6, 5), region_of((2, 6, 5), [Cut(1, 3, 1)]))) == [(10, 10), (40, 10)]


def test_spans_are_taken_piece_by_piece():
    spans = Spans([(0, 5), (10, 5)])
    assert list(spans.take(7)) == [(0, 5), (10, 2)]
    assert list(spans.take(9)) == [(12, 3)]


WHOLE = torch.randn(48, 6, 40)


@pytest.mark.parametrize("portion", [512, 1 << 20])
@pytest.mark.parametrize("rows", [0, 1 << 20], ids=["runs", "rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "cuts",
    [
        [Cut(0, 4, 1)], [Cut(1, 4, 2)], [Cut(2, 3, 2)], [Cut(2, 3, 0), Cut(0, 5, 4)], [Cut(0, 2, 1, blocks=3)],
        [Cut(1, 2, 1), Cut(2, 8, 7)], [Cut(1, 4, 3)],
    ],
    ids=str,
)  # fmt: skip
def test_every_region_arrives_whatever_the_way(tmp_path, monkeypatch, portion, rows, dtype, cuts):
    for owner, name, size in [
        (HostLane, "slot", portion), (reads, "PORTION", portion), (staging, "_ROWS", portion),
        (moves, "GAP", 64), (reads, "GAP", 64), (moves, "ROW_GAP", rows),
    ]:  # fmt: skip
        monkeypatch.setattr(owner, name, size)
    data = open_bundle(write_bundle(tmp_path, {"a": WHOLE, "z": torch.zeros(1)}))
    region = region_of(WHOLE.shape, cuts)
    target = torch.zeros(shape_of(region), dtype=dtype)
    moved = fill(data.blob, [Move(data.index.tensors["a"], target, region)])
    data.close()
    assert moved == target.numel() * 4
    assert torch.equal(target, part_of(WHOLE, region).to(dtype))


def test_of_a_part_of_the_first_axis_nothing_else_is_read(tmp_path):
    data = open_bundle(write_bundle(tmp_path, {"a": torch.randn(1024, 512), "b": torch.randn(2048, 512)}))
    before = data.blob.fetched
    parts = []
    for name, tensor in data.index.tensors.items():
        region = region_of(tensor.shape, [Cut(0, 4, 2)])
        parts.append(Move(data.index.tensors[name], torch.zeros(shape_of(region)), region))
    assert fill(data.blob, parts) == data.blob.fetched - before == 3072 * 512
    data.close()


def test_columns_that_are_far_apart_are_read_one_by_one(tmp_path):
    data = open_bundle(write_bundle(tmp_path, {"a": torch.randn(8, 32768)}))
    before, region = data.blob.fetched, region_of((8, 32768), [Cut(1, 4, 1)])
    target = torch.zeros(shape_of(region))
    fill(data.blob, [Move(data.index.tensors["a"], target, region)])
    assert data.blob.fetched - before == target.nbytes
    data.close()
