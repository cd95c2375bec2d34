"""Tensors that are stored in parts, as sharded checkpoints keep them: any way of cutting gives the whole back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from formats.samples import BytesBlob
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from preheat.checks import Checks
from preheat.convert import Convert
from preheat.errors import CheckpointValidationError
from preheat.index import Index, Part, Record, Tensor, joined
from preheat.plan import make_plan
from preheat.spec import PipelineSpec
from preheat.strategies.filling.tensors import read_tensor
from preheat.transfer import engine, gather
from preheat.transfer.checksum import crc32
from preheat.transfer.pace import Pace

Box = tuple[tuple[int, ...], tuple[int, ...]]


def boxes(corner: tuple[int, ...], shape: tuple[int, ...], cuts: int, chance: random.Random) -> Iterator[Box]:
    """The box cut in two, at random, so many times."""
    axes = [axis for axis, length in enumerate(shape) if length > 1]
    if not cuts or not axes:
        yield corner, shape
        return
    axis = chance.choice(axes)
    at = chance.randrange(1, shape[axis])
    for begin, length in ((0, at), (at, shape[axis] - at)):
        part = (*corner[:axis], corner[axis] + begin, *corner[axis + 1 :]), (*shape[:axis], length, *shape[axis + 1 :])
        yield from boxes(*part, cuts - 1, chance)


class Stored:
    """A checkpoint in memory whose tensors were cut and laid down in a random order, each part with its CRC-32."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.content = bytearray(b"head")
        self.tensors: dict[str, Tensor] = {}

    def put(self, name: str, values: torch.Tensor, cuts: int, *, turned: bool = False, in_a_row: bool = False) -> None:
        space = values.reshape(-1) if in_a_row else values
        found = list(boxes((0,) * space.dim(), tuple(space.shape), cuts, self.chance))
        self.chance.shuffle(found)
        parts = [Part(corner, self._lay(space[cut(corner, shape)], turned)) for corner, shape in found]
        self.tensors[name] = joined(name, "F32", tuple(values.shape), parts)

    def _lay(self, values: torch.Tensor, turned: bool) -> Tensor:
        start = len(self.content)
        backwards = tuple(range(values.dim()))[::-1]
        dense = values.permute(backwards).contiguous() if turned else values.contiguous()
        raw = dense.numpy().tobytes()
        self.content += raw + b"\0" * self.chance.randrange(3)
        strides = dense.permute(backwards).stride() if turned else None
        return Tensor("F32", tuple(values.shape), Record(str(start), start, start + len(raw), crc32(raw)), 0, strides)

    @property
    def index(self) -> Index:
        return Index("test", "raw", self.tensors)


def cut(corner: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(begin, begin + length) for begin, length in zip(corner, shape, strict=True))


def moved(stored: Stored, folder: Path, dtype: str | None = None) -> dict[str, torch.Tensor]:
    plan = make_plan(stored.index, PipelineSpec((Convert(dtype=dtype),)))
    path = folder / "out.safetensors"
    path.unlink(missing_ok=True)
    done = engine.transfer(plan, BytesBlob(bytes(stored.content)), path, Checks(crc32=True, finite=True))
    found = load_file(path)
    for name, values in found.items():
        assert done.checksums[name] == crc32(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found


@pytest.fixture(autouse=True)
def many_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "REMOTE", Pace(3, 1001, 4096))
    monkeypatch.setattr(gather, "BLOCK", 500)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=1, max_size=4),
    cuts=st.integers(0, 4),
    turned=st.booleans(),
    in_a_row=st.booleans(),
    dtype=st.sampled_from([None, "bfloat16"]),
    seed=st.integers(0, 1 << 30),
)
def test_however_a_tensor_is_cut_it_is_put_together_again(
    tmp_path: Path, shapes: list[list[int]], cuts: int, turned: bool, in_a_row: bool, dtype: str | None, seed: int
) -> None:
    stored = Stored(seed)
    values = {str(at): torch.randn(shape) for at, shape in enumerate(shapes)}
    for name, whole in values.items():
        stored.put(name, whole, cuts, turned=turned, in_a_row=in_a_row)
    found = moved(stored, tmp_path, dtype)
    for name, whole in values.items():
        assert torch.equal(found[name], whole.to(torch.bfloat16) if dtype else whole)
        read = read_tensor(BytesBlob(bytes(stored.content)), stored.tensors[name], Checks(crc32=True))
        assert torch.equal(read, whole)


def test_rows_are_copied_as_they_pass_and_columns_are_gathered() -> None:
    stored = Stored(1)
    whole = torch.randn(4, 6)
    halves = {"rows": [(0, 0), (2, 0)], "columns": [(0, 0), (0, 3)]}
    for name, corners in halves.items():
        shape = (2, 6) if name == "rows" else (4, 3)
        parts = [Part(corner, stored._lay(whole[cut(corner, shape)], False)) for corner in corners]
        stored.tensors[name] = joined(name, "F32", (4, 6), parts)
    plan = make_plan(stored.index, PipelineSpec(()))
    assert [move.name for move in plan.moves if move.target is not None] == ["rows", "rows"]
    assert [each.name for each in plan.gatherings] == ["columns"]
    assert plan.selected_bytes == 2 * whole.numel() * 4


@pytest.mark.parametrize("turned", [False, True])
def test_a_damaged_part_is_named(tmp_path: Path, turned: bool) -> None:
    stored = Stored(2)
    stored.put("weight", torch.randn(6, 8), 2, turned=turned)
    stored.content[10] ^= 1
    with pytest.raises(CheckpointValidationError, match="tensor 'weight' is corrupt"):
        moved(stored, tmp_path)


@pytest.mark.parametrize(
    "found",
    [
        [((0, 0), (2, 4))],
        [((0, 0), (2, 4)), ((2, 0), (2, 4)), ((2, 0), (2, 4))],
        [((0, 0), (3, 4)), ((2, 0), (1, 4))],
        [((0, 0), (2, 4)), ((2, 0), (2, 5))],
        [((0, 0), (2, 4)), ((-2, 0), (2, 4))],
        [((0,), (4,)), ((8,), (8,))],
        [((0, 0), (2, 4)), ((8,), (8,))],
        [],
    ],
)
def test_parts_that_do_not_make_up_the_tensor_are_refused(found: list[Box]) -> None:
    record = Record("r", 0, 1000)
    with pytest.raises(CheckpointValidationError, match="tensor 'weight'"):
        joined("weight", "F32", (4, 4), [Part(corner, Tensor("F32", shape, record)) for corner, shape in found])
