"""Eviction against everything that may happen at the same moment.

Another's whole work is run at every point at which one touches the volume, and a process is killed at each of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cache.volumes import attach, digest_named, letters, make, remains

from preheat.bundle import eviction, store
from preheat.bundle.eviction import Policy, collect, discard
from preheat.bundle.store import Store
from preheat.errors import BundleInUseError

A = digest_named("a")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
#: Events of Python that go with a look at the volume, or a change of it.
TOUCHES = {"os.rename", "os.utime", "os.scandir", "os.mkdir", "os.symlink", "os.remove", "os.rmdir", "shutil.rmtree"}


class Interruption:
    """Runs something once, at the `at`-th touch of the volume."""

    def __init__(self) -> None:
        self._countdown = 0
        self._work: Callable[[], object] | None = None
        sys.addaudithook(self._heard)  # for ever, so there is one of these

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._work and event in TOUCHES:
            self._countdown -= 1
            if self._countdown == 0:
                work, self._work = self._work, None
                work()

    def during(self, at: int, work: Callable[[], object], of: Callable[[], object]) -> bool:
        """Run `of`, and `work` in the middle of it; False when `of` touches the volume less than `at` times."""
        self._countdown, self._work = at, work
        of()
        happened = self._work is None
        self._work = None
        return happened


INTERRUPTION = Interruption()


@pytest.fixture(params=["grace", "no grace", "bundles of another user"])
def grace(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the grace that others get, and without it; and where a use cannot be stamped: then the link alone tells."""
    if request.param != "grace":
        monkeypatch.setattr(eviction, "GRACE", 0)
    if request.param == "bundles of another user":
        monkeypatch.setattr(store, "touch", lambda folder: None)


def every_moment(
    root: Path, work: Callable[[], object], of: Callable[[], object], before: Callable[[], object] = lambda: None
) -> Iterator[int]:
    """A volume with the old bundle `a`, `work` having been done at one more moment of `of` each time."""
    for at in range(1, 1000):
        shutil.rmtree(root, ignore_errors=True)
        make(root, "a", days=1)
        before()
        happened = INTERRUPTION.during(at, work, of)
        if not happened:
            assert at > 3
            return
        yield at
    raise AssertionError("it never ends")


class Pod:
    """Asks for bundle `a`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.given = False

    def come(self) -> None:
        self.given = Store(self.root).attach("pod", A, None) is not None

    def holds(self) -> bool:
        return (self.root / "pods" / "pod" / "bundle" / "model.safetensors").exists()

    def deceived(self) -> bool:
        return self.given and not self.holds()


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path / "volume")


def test_a_pod_that_comes_during_an_eviction_has_its_bundle_or_knows_that_it_has_not(grace: None, pod: Pod) -> None:
    outcomes = set()
    for _ in every_moment(pod.root, pod.come, lambda: collect(pod.root, Policy(0))):
        assert not pod.deceived()
        assert remains(pod.root) == []
        outcomes.add(pod.given)
    assert outcomes == {True, False}


def test_an_eviction_during_an_attachment_is_noticed(grace: None, pod: Pod) -> None:
    outcomes = set()
    for _ in every_moment(pod.root, lambda: collect(pod.root, Policy(0)), pod.come):
        assert not pod.deceived()
        assert remains(pod.root) == []
        outcomes.add(pod.given)
    assert any(outcomes)  # of all moments, some left it its bundle


def test_a_removal_by_name_is_no_other(pod: Pod) -> None:
    def remove() -> None:
        with suppress(BundleInUseError):
            discard(pod.root, [A])

    for _ in every_moment(pod.root, pod.come, remove):
        assert not pod.deceived()
    for _ in every_moment(pod.root, remove, pod.come):
        assert not pod.deceived()


def test_a_maker_that_publishes_during_an_eviction_leaves_a_whole_bundle(grace: None, pod: Pod) -> None:
    for _ in every_moment(pod.root, lambda: make(pod.root, "a"), lambda: collect(pod.root, Policy(0))):
        assert remains(pod.root) == []
        assert letters(pod.root) == "" or Store(pod.root).find(A)


def test_two_evictions_at_once_take_no_bundle_that_is_in_use(grace: None, pod: Pod) -> None:
    def come_and_evict() -> None:
        pod.come()
        collect(pod.root, Policy(0))

    for _ in every_moment(pod.root, come_and_evict, lambda: collect(pod.root, Policy(0))):
        assert not pod.deceived()
        assert remains(pod.root) == []


def test_a_loader_that_runs_again_while_its_pods_folder_is_taken_for_over_keeps_it(grace: None, pod: Pod) -> None:
    policy = Policy(0, pod_lifetime=2 * 3600)
    for _ in every_moment(
        pod.root, pod.come, lambda: collect(pod.root, policy), lambda: attach(pod.root, "pod", "a", days=1)
    ):
        assert not pod.deceived()
        assert remains(pod.root) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from preheat.bundle import eviction
from preheat.bundle.store import Store
import cache.volumes as volumes
root, left, busy = Path(sys.argv[1]), int(sys.argv[2]), False
eviction.GRACE = 0
def heard(event, arguments):
    global left, busy
    if busy or event not in {"os.rename", "os.remove", "os.rmdir"}:
        return
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if left == 1:  # a pod comes, and the next thing that happens is the end
        busy = True
        given = Store(root).attach("late", volumes.digest_named("a"), None)
        print("given" if given else "refused", flush=True)
        busy = False
sys.addaudithook(heard)
eviction.collect(root, eviction.Policy(0))
"""


def test_killed_at_any_point_it_leaves_whole_bundles_and_those_in_use(tmp_path: Path) -> None:
    said = set()
    for at in range(1, 100):
        root = tmp_path / str(at)
        make(root, "b", days=2)
        make(root, "a", days=1)
        attach(root, "pod", "b", days=1)
        command = [sys.executable, "-c", KILLED, str(root), str(at)]
        done = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        assert done.returncode in (0, -signal.SIGKILL)
        assert all(Store(root).find(digest_named(letter)) for letter in letters(root))
        collect(root, Policy())
        assert Store(root).attached("pod")
        assert done.stdout != "given\n" or Store(root).attached("late")
        assert not list((root / "bundles").glob(".evicted-*"))
        said.add(done.stdout)
        if done.returncode == 0:
            assert said >= {"given\n", "refused\n"}
            return
    raise AssertionError("it never ends")


BUSY = """
import sys, time
from pathlib import Path
from preheat.bundle import eviction
from preheat.bundle.store import Store
import cache.volumes as volumes
root, name, desk = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
eviction.GRACE = 0
store, done, pod = Store(root), 0, None
evicts = name.startswith("evictor")
while not (desk / "enough").exists() or not (evicts or pod):  # who is not given its bundle makes it anew, to the end
    if evicts:
        done += len(eviction.collect(root, eviction.Policy(0)).bundles)
    else:
        letter = "abc"[done % 3]
        volumes.make(root, letter, days=1)
        pod = store.attach(name, volumes.digest_named(letter), None)
        until = time.monotonic() + 60
        while pod and not (pod / "bundle" / "model.safetensors").exists():  # without grace it may be away for a moment
            assert time.monotonic() < until, "evicted under a pod"
        done += bool(pod)
    (desk / name).write_text(str(done))
"""
AT_RANDOM = ("pod-1", "pod-2", "evictor-1", "evictor-2")


def test_pods_and_evictions_that_meet_at_random_lose_nothing(tmp_path: Path) -> None:
    root, desk = tmp_path / "volume", tmp_path / "desk"
    desk.mkdir()
    processes = [
        subprocess.Popen([sys.executable, "-c", BUSY, str(root), name, str(desk)], env=ENVIRONMENT)
        for name in AT_RANDOM
    ]
    try:
        until = time.monotonic() + 60
        while not _enough(desk) and all(process.poll() is None for process in processes):
            assert time.monotonic() < until, "they hardly meet"
            time.sleep(0.05)
        (desk / "enough").touch()
        assert [process.wait(timeout=60) for process in processes] == [0, 0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert all(Store(root).attached(name) for name in AT_RANDOM[:2])


def _enough(desk: Path) -> bool:
    """Whether each pod was given many bundles, and many were evicted, however late a process began."""
    done = [int(path.read_text() or 0) if path.exists() else 0 for path in (desk / name for name in AT_RANDOM)]
    return min(done[:2]) >= 20 and sum(done[2:]) >= 20
