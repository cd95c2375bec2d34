"""Plans: every selected byte once, nothing else but small gaps, the same output each time."""

from __future__ import annotations

import io
import time
from itertools import pairwise
from typing import Any

import pytest
import safetensors.torch
import torch
from formats.samples import index_of, same, saved, value_of
from hypothesis import given, settings
from hypothesis import strategies as st

from preheat.errors import UnsupportedFormatError
from preheat.index import Index, Record, Tensor
from preheat.moves import Move, coalesce
from preheat.plan import Plan, make_plan
from preheat.spec import PipelineSpec
from preheat.verify import Verify

PLAIN = PipelineSpec(stages=())
UNCHECKED = PipelineSpec(stages=(Verify(crc32=False),))


def executed(plan: Plan, content: bytes) -> bytes:
    """What a transfer would write."""
    output = bytearray(plan.output_bytes)
    output[: plan.header.size] = bytes(plan.header)
    for way in (*(move for move in plan.moves if move.target is not None), *plan.gatherings):
        values = value_of(content, way.tensor).contiguous().reshape(-1).view(torch.uint8)
        output[way.target : way.target + way.tensor.size] = values.numpy().tobytes()
    return bytes(output)


def test_an_executed_plan_is_a_safetensors_file() -> None:
    weight = torch.randn(4, 6)
    tree = {
        "w": weight,
        "tied": weight,
        "t": weight.t(),
        "rows": weight[1:3],
        "empty": torch.empty(0),
        "s": torch.ones(()),
    }
    content = saved(tree)
    plan = make_plan(index_of(content), PLAIN)
    found = safetensors.torch.load(executed(plan, content))
    assert plan.aliases == {"tied": "w"}
    assert found.keys() == tree.keys() - {"tied"}
    assert all(same(found[name], tree[name]) for name in found)
    assert plan.output_bytes == len(executed(plan, content))


def test_the_same_source_gives_the_same_plan() -> None:
    content = saved({"b": torch.ones(3), "a": torch.ones(2)})
    assert make_plan(index_of(content), PLAIN) == make_plan(index_of(content), PLAIN)


def test_aliases_need_the_same_geometry() -> None:
    weight = torch.arange(6.0)
    tree = {"w": weight, "shaped": weight.view(2, 3), "part": weight[:3], "e1": torch.empty(0), "e2": torch.empty(0)}
    plan = make_plan(index_of(saved(tree)), PLAIN)
    assert plan.aliases == {}
    assert plan.selected_bytes == 24


def test_the_optimizer_is_left_and_counted(lightning_checkpoint: bytes) -> None:
    index = index_of(lightning_checkpoint)
    plan = make_plan(index, PLAIN)
    assert plan.left_tensors == 12
    assert plan.left_bytes == 2 * plan.selected_bytes + 4 * 4
    assert {move.name for move in plan.moves} == set(index.tensors)


def test_a_lightning_file_is_fetched_in_one_run() -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(128, 128) for _ in range(6)))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 128)).sum().backward()
    optimizer.step()
    index = index_of(saved({"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}))
    plan = make_plan(index, PLAIN)
    (span,) = coalesce(plan.moves, max_gap=64 * 1024, max_length=1 << 40)
    assert span.stop - span.start <= 1.001 * plan.selected_bytes + 64 * 1024
    assert [record.crc32 is not None for record in span.records] == [True] * 12


def test_a_checked_record_passes_as_a_whole() -> None:
    content = saved({"part": torch.arange(100.0)[10:20]})
    index = index_of(content)
    record = index.tensors["part"].record
    (whole,) = make_plan(index, PLAIN).moves
    (part,) = make_plan(index, UNCHECKED).moves
    assert (whole.start, whole.stop) == (record.start, record.stop)
    assert (part.start - record.start, part.stop - part.start) == (40, 40)
    assert make_plan(index, PLAIN).selected_bytes == 40


def test_a_span_knows_which_records_pass_whole() -> None:
    record = Record("r", 100, 200, 7)
    moves = [Move("a", Tensor("U8", (10,), record), 0, 100, 110)]
    (span,) = coalesce(moves, max_gap=0, max_length=1000)
    assert span.records == ()


def test_a_reserved_name_is_refused() -> None:
    with pytest.raises(UnsupportedFormatError, match="keeps for itself"):
        make_plan(index_of(saved({"__metadata__": torch.ones(1)})), PLAIN)


def test_views_of_shared_bytes_are_selected_once() -> None:
    weight = torch.arange(10.0)
    plan = make_plan(index_of(saved({"a": weight[:6], "b": weight[4:]})), UNCHECKED)
    assert plan.selected_bytes == 40
    assert plan.output_bytes == plan.header.size + 48
    assert len(coalesce(plan.moves, max_gap=0, max_length=8)) == 1


def test_every_byte_of_the_file_but_padding_belongs_to_one_span() -> None:
    plan = make_plan(index_of(saved({str(n): torch.ones(n) for n in range(1, 40)})), PLAIN)
    spans = coalesce(plan.moves, max_gap=0, max_length=1 << 30)
    assert sum(span.stop - span.start for span in spans) == plan.selected_bytes


@st.composite
def moves(draw: Any) -> list[Move]:
    """Tensors anywhere in a blob, some of them overlapping."""
    found = []
    for number in range(draw(st.integers(0, 15))):
        start, size = draw(st.integers(0, 300)), draw(st.integers(1, 40))
        record = Record(str(number), start, start + size, None)
        found.append(Move(str(number), Tensor("U8", (size,), record), 0, start, start + size))
    return found


@settings(max_examples=300, deadline=None)
@given(moves=moves(), max_gap=st.integers(0, 50), max_length=st.integers(1, 200))
def test_spans_cover_every_move_once_within_their_limits(moves: list[Move], max_gap: int, max_length: int) -> None:
    spans = coalesce(moves, max_gap=max_gap, max_length=max_length)
    assert sorted(move.name for span in spans for move in span.moves) == sorted(move.name for move in moves)
    for one, other in pairwise(spans):
        assert one.stop <= other.start
    for span in spans:
        assert (span.start, span.stop) == (min(m.start for m in span.moves), max(m.stop for m in span.moves))
        assert span.stop - span.start <= max_length or overlapping(span.moves)
        assert largest_gap(span.moves) <= max_gap


def overlapping(moves: tuple[Move, ...]) -> bool:
    """Whether the moves share bytes so that they cannot be parted."""
    return largest_gap(moves) < 0 or len(moves) == 1


def largest_gap(moves: tuple[Move, ...]) -> int:
    reach, gap = moves[0].stop, -(1 << 62)
    for move in moves[1:]:
        gap, reach = max(gap, move.start - reach), max(reach, move.stop)
    return gap


def test_twenty_thousand_moves_are_joined_quickly() -> None:
    tensors = {str(n): Tensor("F32", (4,), Record(str(n), 64 * n, 64 * n + 16, 1)) for n in range(20_000)}
    start = time.process_time()
    plan = make_plan(Index("torch-zip", "raw", tensors), PLAIN)
    assert len(coalesce(plan.moves, max_gap=64, max_length=1 << 40)) == 1
    assert time.process_time() - start < 3


def test_the_plan_of_a_safetensors_file_is_one_span() -> None:
    content = safetensors.torch.save({name: torch.randn(5) for name in "abc"})
    plan = make_plan(index_of(content), PLAIN)
    assert len(coalesce(plan.moves, max_gap=0, max_length=1 << 30)) == 1
    assert (
        safetensors.torch.load(executed(plan, content)).keys()
        == safetensors.torch.load(io.BytesIO(content).read()).keys()
    )
