"""The ring between a blob and a device: values arrive whatever the device's pace, and nothing outlives a failure."""

import threading
from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from preheat.errors import CheckpointSourceError
from preheat.file_blob import FileBlob
from preheat.index import Record, Tensor
from preheat.strategies.filling import ring
from preheat.strategies.filling.fill import fill
from preheat.strategies.filling.lanes import CudaLane, HostLane, lane_to
from preheat.strategies.filling.moves import Move
from preheat.strategies.filling.ring import pour
from preheat.strategies.filling.slices import Cut, region_of, shape_of
from preheat.strategies.filling.staging import lots_of
from preheat.strategies.filling.tensors import dtype_name


class LazyLane(HostLane):
    """The slowest device there can be: a copy happens when somebody waits for it, not before."""

    def __init__(self):
        self.slots, self._queue, self._lock = [], deque(), threading.Lock()
        self._queued = self._done = 0

    def memory(self, size):
        self.slots.append(size)
        return super().memory(size)

    def copy(self, lot, staged):
        self._queue.append((lot, staged))
        self._queued += 1

    def record(self):
        return self._queued

    def wait(self, mark):
        with self._lock:
            while self._done < mark:
                super().copy(*self._queue.popleft())
                self._done += 1

    @property
    def pending(self):
        return len(self._queue)


class CarelessLane(LazyLane):
    """As if nobody had to wait."""

    def wait(self, mark):
        if threading.current_thread() is threading.main_thread():
            super().wait(mark)


@pytest.fixture(autouse=True)
def _several_readers(monkeypatch):
    monkeypatch.setattr(ring, "processors", lambda: 4)


def stored(path, values):
    """Tensors one behind the other in a file, and where they are."""
    content, found = bytearray(b"head"), []
    for number, value in enumerate(values):
        data = bytes(value.contiguous().flatten().view(torch.uint8).tolist())
        record = Record(str(number), len(content), len(content) + len(data))
        found.append(Tensor(dtype_name(value.dtype), tuple(value.shape), record))
        content += data
    path.write_bytes(content)
    return FileBlob(path), found


def moves_to(dtype, tensors):
    return [Move(tensor, torch.zeros(tensor.shape, dtype=dtype)) for tensor in tensors]


DTYPES = st.sampled_from([torch.uint8, torch.float16, torch.float32, torch.float64])
SHAPES = st.lists(st.integers(1, 12), max_size=3)


@given(st.lists(st.tuples(DTYPES, SHAPES), min_size=1, max_size=30), st.sampled_from([32, 100, 1000, 1 << 20]))
def test_a_slot_is_never_filled_before_the_device_has_taken_what_is_in_it(tmp_path_factory, wanted, limit):
    values = [torch.arange(torch.Size(shape).numel()).add(n).view(shape).to(d) for n, (d, shape) in enumerate(wanted)]
    blob, tensors = stored(tmp_path_factory.mktemp("ring") / "blob", values)
    moves, lane = moves_to(torch.float64, tensors), LazyLane()
    pour(blob, lots_of(moves, limit), lane, limit)
    blob.close()
    assert all(torch.equal(move.target, value.double()) for move, value in zip(moves, values, strict=True))
    assert len(lane.slots) <= 4 + 4
    assert set(lane.slots) == {limit}


def test_without_waiting_the_same_values_would_be_torn(tmp_path):
    values = [torch.full((100,), float(n)) for n in range(40)]
    blob, tensors = stored(tmp_path / "blob", values)
    moves = moves_to(torch.float64, tensors)
    pour(blob, lots_of(moves, 400), CarelessLane(), 400)
    blob.close()
    assert not all(torch.equal(move.target, value.double()) for move, value in zip(moves, values, strict=True))


def test_small_tensors_share_a_slot_and_a_read(tmp_path):
    blob, tensors = stored(tmp_path / "blob", [torch.full((8,), float(n)) for n in range(1000)])
    lots = list(lots_of(moves_to(torch.bfloat16, tensors), 1 << 14))
    assert [len(lot.pieces) for lot in lots] == [512, 488]
    assert len(list(lots[0].reads(torch.empty(1 << 14, dtype=torch.uint8)))) == 1
    blob.close()


def test_a_large_tensor_takes_several_slots_and_its_rows_stay_whole():
    tensor = Tensor("F32", (10, 6), Record("a", 0, 240))
    lots = list(lots_of(moves_to(torch.float16, [tensor]), 50))
    assert [lot.pieces[0][1].shape for lot in lots] == [(2, 6)] * 5
    assert max(lot.size for lot in lots) <= 50


def test_columns_go_through_the_ring_as_whole_rows(tmp_path):
    whole = torch.randn(64, 5000)
    blob, [tensor] = stored(tmp_path / "blob", [whole])
    region = region_of(whole.shape, [Cut(1, 2, 1)])
    target = torch.zeros(shape_of(region))
    move = Move(tensor, target, region)
    pour(blob, lots_of([move], 1 << 18), LazyLane(), 1 << 18)
    blob.close()
    assert torch.equal(target, whole[:, 2500:])


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("preheat-read")]


class Broken:
    """A blob whose bytes cannot be read from some place on."""

    def __init__(self, blob, end):
        self.uri, self._blob, self._end = blob.uri, blob, end

    def read_into(self, start, views):
        if start >= self._end:
            raise CheckpointSourceError(f"reading {self.uri} failed at byte {start}")
        self._blob.read_into(start, views)


@pytest.mark.parametrize("end", [0, 4000, 15000])
def test_a_read_that_fails_ends_everything(tmp_path, end):
    blob, tensors = stored(tmp_path / "blob", [torch.full((100,), float(n)) for n in range(40)])
    moves, lane = moves_to(torch.float64, tensors), LazyLane()
    with pytest.raises(CheckpointSourceError, match="failed at byte"):
        pour(Broken(blob, end), lots_of(moves, 400), lane, 400)
    blob.close()
    assert not readers()
    assert not lane.pending
    reached = [float(move.target[0]) for move in moves if move.target.any()]
    assert all(torch.equal(move.target, move.target[:1].expand(100)) for move in moves)
    assert reached == [float(n) for n in range(1, len(reached) + 1)]


def test_a_device_that_fails_ends_everything(tmp_path):
    class Failing(LazyLane):
        def copy(self, lot, staged):
            if len(self.slots) > 3 and not self.pending:
                raise RuntimeError("device-side assert")
            super().copy(lot, staged)

    blob, tensors = stored(tmp_path / "blob", [torch.full((100,), float(n)) for n in range(40)])
    lane = Failing()
    with pytest.raises(RuntimeError, match="device-side assert"):
        pour(blob, lots_of(moves_to(torch.float64, tensors), 400), lane, 400)
    blob.close()
    assert not readers()
    assert not lane.pending


def test_an_interrupted_plan_leaves_no_thread(tmp_path):
    blob, tensors = stored(tmp_path / "blob", [torch.full((100,), float(n)) for n in range(40)])

    def interrupted():
        yield from list(lots_of(moves_to(torch.float64, tensors), 400))[:30]
        raise KeyboardInterrupt

    lane = LazyLane()
    with pytest.raises(KeyboardInterrupt):
        pour(blob, interrupted(), lane, 400)
    blob.close()
    assert not readers()
    assert not lane.pending


class Unpinned(CudaLane):
    """Its two routes, with the CPU as device."""

    def __init__(self):
        self._device, self._staging, self.sent = torch.device("cpu"), None, []

    memory, wait, enter = HostLane.memory, HostLane.wait, HostLane.enter

    def copy(self, lot, staged):
        super().copy(lot, staged)
        self.sent.append("staged" if self._staging is not None else "straight")
        self._staging = None

    def record(self):
        return None


def test_large_tensors_go_straight_to_a_gpu_and_small_ones_in_one_transfer(tmp_path):
    values = [torch.randn(1 << 19), torch.randn(1 << 18), *torch.randn(9, 30), torch.randn(1 << 18)]
    blob, tensors = stored(tmp_path / "blob", values)
    moves, lane = [*moves_to(torch.float32, tensors[:-1]), *moves_to(torch.float16, tensors[-1:])], Unpinned()
    pour(blob, lots_of(moves, 1 << 21), lane, 1 << 21)
    blob.close()
    assert lane.sent == ["straight", "staged", "staged"]
    assert all(torch.equal(move.target, value.to(move.target.dtype)) for move, value in zip(moves, values, strict=True))


def test_the_way_to_the_cpu_is_ordinary_memory():
    assert isinstance(lane_to(torch.device("cpu")), HostLane)
    assert not HostLane().memory(16).is_pinned()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_parameters_on_a_gpu_are_filled(tmp_path, dtype):
    values = [torch.randn(3), torch.randn(3000, 2000), torch.randn(7, 5).t().contiguous(), torch.tensor(4.0)]
    blob, tensors = stored(tmp_path / "blob", values)
    moves = [Move(tensor, torch.zeros(tensor.shape, dtype=dtype, device="cuda")) for tensor in tensors]
    fill(blob, moves)
    blob.close()
    assert all(torch.equal(move.target.cpu(), value.to(dtype)) for move, value in zip(moves, values, strict=True))
