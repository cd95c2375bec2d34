"""Saves that do not get to their end: a process that is killed, a volume that is full, a pod that is told to go."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from saving.loops import Loop, pointed, same

import preheat
from preheat.errors import StorageError
from preheat.saving.appearing import appearing
from preheat.saving.termination import Termination
from preheat.verbs.verification import verify_checkpoint

UNTIL = 24


def forked(play: Callable[[], None]) -> int:
    """A child that plays and ends at once, without the test's own leaving."""
    child = os.fork()
    if child:
        return child
    try:
        play()
        os._exit(0)
    finally:
        os._exit(1)


def kill_at_random(child: int, begun: Callable[[], bool], chance: random.Random) -> bool:
    """Kill a child in the middle of whatever it does, soon after it has begun; False if it was at its end by then."""
    deadline = time.monotonic() + 60
    while not begun() and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert not os.WIFEXITED(status) or not os.WEXITSTATUS(status)
    return os.WIFSIGNALED(status)


def visible(home: Path) -> list[Path]:
    found = (each for each in home.glob("*") if each.is_dir() and not each.name.startswith("."))
    return sorted(found, key=lambda each: int(each.name.rpartition("S")[2]))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Of torch's own, whose number shows in the last bit; a child has no others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_that_is_killed_leaves_whole_checkpoints_and_its_training_ends_as_if_it_had_not_been(
    tmp_path: Path,
) -> None:
    home = tmp_path / "checkpoints"

    def train() -> None:
        begun = (home / "model_cp=latest.json").exists()
        loop = Loop(seed=random.SystemRandom().randrange(100) if begun else 0)
        if begun:
            loop.resume(pointed(home, "latest"))
        while loop.update < UNTIL:
            loop.step()
            loop.save(tmp_path, wait=loop.update % 2 == 0)
        preheat.flush()

    chance, kills = random.Random(1), 0
    while kills < 5 and len(visible(home)) < UNTIL:
        before = visible(home)
        kills += kill_at_random(forked(train), lambda seen=before: len(visible(home)) > len(seen), chance)
        for folder in {*visible(home)} - {*before[:-1]}:
            verify_checkpoint(folder)  # also of its manifest
    assert kills
    assert os.waitpid(forked(train), 0)[1] == 0
    resumed = Loop(seed=7)
    resumed.resume(pointed(home, "latest"))
    assert same(resumed.facts(), Loop().run(UNTIL).facts())
    assert not [each for each in home.glob(".*") if each.is_dir()]  # what was left, the next one removed


def test_what_somebody_still_writes_is_not_removed(tmp_path: Path) -> None:
    with appearing(tmp_path / "a") as scratch:
        with appearing(tmp_path / "b"):
            pass
        assert scratch.is_dir()
    (tmp_path / ".c.partial-1").mkdir()
    (tmp_path / ".d.json.partial-1").touch()
    with pytest.raises(KeyError), appearing(tmp_path / "a"):
        raise KeyError
    assert sorted(os.listdir(tmp_path)) == [".d.json.partial-1", "a", "b"]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_without_room_the_one_before_stays(tmp_path: Path) -> None:
    loop = Loop(width=512).run(2)
    first = loop.save(tmp_path)
    loop.step()
    with files_of_at_most(16_000), pytest.raises(StorageError, match=r"checkpoints failed: File too large\. Check"):
        loop.save(tmp_path)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == [first.name, "model_cp=latest.json"]
    assert pointed(tmp_path / "checkpoints", "latest") == first
    verify_checkpoint(first)


def test_a_termination_is_obeyed_when_the_checkpoint_is_there(tmp_path: Path) -> None:
    obeyed = []
    before = signal.signal(signal.SIGTERM, lambda *_: obeyed.append(loop.update))
    try:
        with Termination() as termination:
            loop = Loop()
            while loop.update < 10 and not obeyed:
                loop.step()
                if loop.update == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                if termination.after(loop.update):
                    assert not obeyed
                    loop.save(tmp_path)
                    termination.obey()
        with Termination():
            os.kill(os.getpid(), signal.SIGTERM)
            assert obeyed == [3]
            os.kill(os.getpid(), signal.SIGTERM)  # nobody asked in between
    finally:
        signal.signal(signal.SIGTERM, before)
    assert obeyed == [3, 3]
    assert pointed(tmp_path / "checkpoints", "latest").name == "model_cp=E0_U3_S12"


def test_what_is_on_its_way_is_on_the_disk_when_python_ends(tmp_path: Path) -> None:
    script = f"import preheat, torch; preheat.save({str(tmp_path)!r}, torch.nn.Linear(99, 999), update=1, wait=False)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    verify_checkpoint(pointed(tmp_path / "checkpoints", "latest"))
