"""How many connections a transfer takes, tried on networks that are only arithmetic."""

import functools
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from loader.loader_process import environment
from safetensors.torch import save
from sources.fault_server import FaultServer

from preheat.errors import CheckpointConfigError
from preheat.transfer.pace import FIRST, LOCAL, LONG, REMOTE, Bucket, Pace, Ramp, bounded, processors, ramped

STEP = 0.002  # seconds
TICK = 0.02  # until a new number of connections shows
GIB = 1 << 30


@dataclass
class Network:
    """What one connection, all of them and the processors bring, in bytes a second; and seconds to the first byte."""

    connection: float
    latency: float
    together: float = 20e9
    processors: int = 2
    per_processor: float = 1e9

    def seconds(self, total: int, fixed: int | None = None) -> tuple[float, int]:
        """How long `total` bytes take, and how many connections there are at the end."""
        ramp, piece = Ramp(REMOTE.threads, self.processors), REMOTE.piece_of(total)
        pieces, connections = -(-total // piece), list[list[float]]()  # of each: seconds to wait, bytes to come
        now = worked = looked = 0.0
        while pieces or connections:
            size = fixed or ramp.size
            if now >= looked:
                looked += TICK
                new = max(0, min(size - len(connections), pieces))
                connections += [[2 * self.latency, piece] for _ in range(new)]
                pieces -= new
            for each in connections:
                each[0] -= STEP
            active = [each for each in connections if each[0] <= 0]
            if active:
                everybody = min(self.together, self.processors * self.per_processor)
                rate = min(self.connection, everybody / len(active)) * STEP
                got = sum(min(rate, each[1]) for each in active)
                worked += got / self.per_processor
                ramp.passed(int(got), now, functools.partial(float, worked))
            for each in active:
                each[1] -= rate
                if each[1] <= 0:
                    connections.remove(each)
                    if pieces and len(connections) < size:
                        pieces -= 1
                        connections.append([self.latency, piece])
            now += STEP
        return now, ramp.size


STORE = Network(connection=90e6, latency=0.03)
FAR = Network(connection=20e6, latency=0.1)
FAST = Network(connection=2e9, latency=0.0005)
GIGABIT = Network(connection=90e6, latency=0.01, together=125e6)


@pytest.mark.parametrize(("network", "total", "allowed"), [(STORE, 2 * GIB, 1.3), (FAR, GIB, 1.5), (FAST, GIB, 1.2)])
def test_it_is_nearly_as_fast_as_the_best_number(network: Network, total: int, allowed: float) -> None:
    best = min(network.seconds(total, fixed)[0] for fixed in (4, 8, 16, 32))
    assert network.seconds(total)[0] <= allowed * best


def test_a_store_gets_as_many_connections_as_there_may_be() -> None:
    assert STORE.seconds(2 * GIB)[1] == REMOTE.threads
    assert FAR.seconds(GIB)[1] == REMOTE.threads


def test_where_the_processors_are_the_limit_there_are_no_more() -> None:
    assert FAST.seconds(GIB)[1] == FIRST


def test_where_the_network_is_the_limit_more_are_given_up_again() -> None:
    assert GIGABIT.seconds(GIB)[1] == FIRST


def test_where_each_connection_is_fast_more_are_not_even_tried() -> None:
    ramp = Ramp(32, 64)
    for step in range(200):
        ramp.passed(LONG * 1_200_000 * (1 + step % 3) * ramp.size // FIRST, step * 0.01, float)
    assert ramp.size == LONG


def test_a_network_that_recovers_is_tried_again() -> None:
    ramp, now = Ramp(32, 2), 0.0
    while now < 5:
        ramp.passed(1000, now := now + 0.01, float)
    assert ramp.size == FIRST
    while now < 13:
        ramp.passed(1000 * ramp.size, now := now + 0.01, float)
    assert ramp.size == 32


@pytest.mark.parametrize("total", [0, 1, 1 << 20, 40 << 20, 70 * GIB])
def test_there_is_work_for_every_thread_if_there_is_enough(total: int) -> None:
    for pace in (LOCAL, REMOTE):
        piece = pace.piece_of(total)
        assert 1 << 20 <= piece <= pace.piece
        assert piece == 1 << 20 or total // piece >= pace.threads


def test_a_ramp_never_goes_beyond_its_limit() -> None:
    ramp = Ramp(3, 64)
    for step in range(1000):
        ramp.passed(step**3, step * 0.01, float)
    assert ramp.size == 3


@pytest.mark.parametrize(("limits", "expected"), [("50000 100000\n", 0.5), ("max 100000\n", None), ("", None)])
def test_a_containers_limit_counts(limits: str, expected: float | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(limits)
    assert processors(tmp_path / "cpu.max") == (expected or len(os.sched_getaffinity(0)))
    assert processors(tmp_path / "nothing") == len(os.sched_getaffinity(0))


def test_a_bucket_lets_pass_what_it_may_and_saves_nothing_up() -> None:
    bucket, now = Bucket(1e6), 100.0
    for _ in range(50):
        now += bucket.take(100_000, now)
    assert now == pytest.approx(105)
    assert bucket.take(100_000, now + 60) == pytest.approx(0.1)


def test_threads_share_a_bucket() -> None:
    bucket = Bucket(1e6)
    assert [round(bucket.take(100_000, 7.0), 3) for _ in range(3)] == [0.1, 0.2, 0.3]


def test_the_bandwidth_of_the_environment_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREHEAT_BANDWIDTH", "2M")
    told: list[int] = []
    _, passed = ramped(LOCAL, told.append)
    began = time.monotonic()
    for _ in range(4):
        passed(100_000)
    assert time.monotonic() - began >= 0.2
    assert told == [100_000] * 4


def test_a_rate_holds_within_its_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREHEAT_BANDWIDTH", raising=False)
    with bounded(2e6):
        assert os.environ["PREHEAT_BANDWIDTH"] == "2000000"
        with bounded(None):
            assert os.environ["PREHEAT_BANDWIDTH"] == "2000000"
    assert "PREHEAT_BANDWIDTH" not in os.environ


@pytest.mark.parametrize("text", ["fast", "-1", "10k"])
def test_a_bandwidth_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREHEAT_BANDWIDTH", text)
    with pytest.raises(CheckpointConfigError):
        ramped(Pace(1, 1, 1), lambda count: None)


MEASURED = """
import preheat.transfer.pace
preheat.transfer.pace.FIRST = 32
import preheat.loader
assert preheat.loader.main() == 0
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_memory_stays_small_with_all_connections_at_work(tmp_path: Path) -> None:
    weights = {f"w{number}": torch.ones(1_000_000) for number in range(20)}
    with FaultServer().running() as server:
        server.etags["/model.safetensors"] = '"1"'
        url = server.serve("/model.safetensors", save(weights))
        stages = [{"http": {"url": url}}, {"verify": {"finite": True}}, {"convert": {"dtype": "bfloat16"}}]
        done = subprocess.run(
            [sys.executable, "-c", MEASURED],
            env=environment([*stages, {"weightsOnly": {}}], tmp_path / "volume"),
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) / 1024 <= 64
