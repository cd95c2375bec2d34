"""A loader that was killed goes on: real processes, a server that counts what it sends."""

import hashlib
import io
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import same, saved
from loader.loader_process import POD, Ended, finish, load, start
from safetensors.torch import load_file
from sources.fault_server import FaultServer

from preheat.bundle import lease
from preheat.bundle.store import Store
from preheat.errors import AccessDeniedError, CheckpointSourceError, CheckpointValidationError, SourceChangedError
from preheat.transfer.journal import Journal

PIECE = 1 << 20
WEIGHTS = {f"layer{n}.weight": torch.randn(500, 1000) for n in range(12)} | {"turned": torch.randn(600, 300).t()}
CHECKPOINT = saved({"state_dict": WEIGHTS, "epoch": 3})
NEEDED = sum(tensor.nbytes for tensor in WEIGHTS.values())
INDEX = 100_000  # bytes of the directory and the pickle, and a little for the gaps


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        running.serve("/model.ckpt", CHECKPOINT)
        running.etags["/model.ckpt"] = '"1"'
        yield running


def stages(server: FaultServer, **verify: Any) -> list[dict[str, Any]]:
    return [
        {"http": {"url": server.origin + "/model.ckpt"}},
        {"verify": {"finite": True, **verify}},
        {"weightsOnly": {}},
    ]


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def killed_after(
    pieces: int, server: FaultServer, volume: Path, pod: str = POD, number: int = 9, **verify: Any
) -> Ended:
    """A loader that gets so many pieces, and then waits for the others until it is killed."""
    server.next(count=pieces + 4)  # the first bring the index
    server.always(stall_after=10_000)
    process = start(stages(server, **verify), volume, pod)
    try:
        wait_for(lambda: len(finished(volume)) >= pieces or process.poll() is not None)
    finally:
        process.send_signal(number)
        ended = finish(process, volume, pod)
    server.always()
    return ended


def bundles(volume: Path) -> list[Path]:
    """Whatever is there, hidden or not."""
    return list((volume / "bundles").iterdir())


def finished(volume: Path) -> list[str]:
    """Entries of journals, their heads left out."""
    lines = []
    for journal in volume.glob("bundles/.partial-*/*.journal"):
        lines += journal.read_text().splitlines()[1:]
    return lines


def assert_complete(volume: Path, ended: Ended, pod: str = POD) -> None:
    assert ended.code == 0, ended.log
    assert [path.name for path in bundles(volume)] == [ended.message["digest"]]
    bundle = volume / "pods" / pod / "bundle"
    assert sorted(path.name for path in bundle.iterdir()) == ["manifest.json", "model.safetensors"]
    found, expected = load_file(bundle / "model.safetensors"), torch.load(io.BytesIO(CHECKPOINT), weights_only=True)
    for name, tensor in expected["state_dict"].items():
        assert same(found[name], tensor.contiguous()), name


def test_pieces_that_were_finished_are_not_fetched_again(server: FaultServer, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    killed_after(15, server, volume)
    count, sent = len(finished(volume)), server.sent
    assert count >= 15
    ended = load(stages(server), volume)
    assert_complete(volume, ended)
    assert f"going on where another loader ended: {count} pieces" in ended.log
    assert server.sent - sent <= NEEDED + 2 * WEIGHTS["turned"].nbytes - (count - 1) * PIECE + INDEX
    assert ended.message["fetchedBytes"] == server.sent - sent


@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again_at_any_moment_it_gets_to_the_end(
    seed: int, server: FaultServer, tmp_path: Path
) -> None:
    volume, chance, sent = tmp_path / "volume", random.Random(seed), []
    for _ in range(3):
        goal = server.sent + chance.randrange(NEEDED // 2)
        process = start(stages(server), volume)
        wait_for(lambda: server.sent >= goal or process.poll() is not None)  # noqa: B023 - called here only
        process.kill()
        finish(process, volume)
        sent.append(server.sent)
    before = len(finished(volume))
    ended = load(stages(server), volume)
    assert_complete(volume, ended)
    if ended.message["outcome"] == "loaded":
        assert server.sent - sent[-1] <= NEEDED + 2 * WEIGHTS["turned"].nbytes - (before - 1) * PIECE + INDEX


def test_sigterm_keeps_what_is_done_for_the_container_that_starts_again(server: FaultServer, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    ended = killed_after(15, server, volume, number=signal.SIGTERM)
    assert (ended.code, ended.message["reason"]) == (143, "Terminated")
    [left] = bundles(volume)
    assert left.name.startswith(".partial-left-")
    sent = server.sent
    assert_complete(volume, load(stages(server), volume))
    assert server.sent - sent < NEEDED - 10 * PIECE


def test_another_pod_goes_on_when_the_first_is_dead(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = tmp_path / "volume"
    killed_after(15, server, volume, number=signal.SIGTERM)
    sent = server.sent
    assert_complete(volume, load(stages(server), volume, pod="another"), "another")
    assert server.sent - sent < NEEDED - 10 * PIECE


@pytest.mark.parametrize("what", ["the source", "the output", "the pipeline"])
def test_what_does_not_fit_any_more_is_fetched_anew(what: str, server: FaultServer, tmp_path: Path) -> None:
    volume, wanted = tmp_path / "volume", stages(server)
    killed_after(15, server, volume)
    [left] = volume.glob("bundles/.partial-*/model.safetensors")
    if what == "the source":
        server.etags["/model.ckpt"] = '"2"'
    elif what == "the output":
        content = bytearray(left.read_bytes())
        for position in range(0, len(content), PIECE // 4):
            content[position] ^= 1
        left.write_bytes(content)
    else:
        wanted = stages(server, crc32=False)
    sent = server.sent
    ended = load(wanted, volume)
    assert ended.code == 0, ended.log
    assert server.sent - sent >= NEEDED
    found = load_file(volume / "pods" / POD / "bundle" / "model.safetensors")
    assert all(same(found[name], tensor.contiguous()) for name, tensor in WEIGHTS.items())


def test_wrong_content_leaves_nothing_to_go_on_with(server: FaultServer, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    killed_after(15, server, volume)
    [left] = volume.glob("bundles/.partial-*/model.safetensors")
    there, starts = left.read_bytes(), [WEIGHTS[f"layer{n}.weight"].numpy().tobytes()[:64] for n in range(12)]
    server.always(flip=CHECKPOINT.rindex(next(start for start in starts if start not in there)))
    ended = load(stages(server), volume)
    assert ended.message["reason"] == "Corrupt"
    assert bundles(volume) == []


def test_a_deadline_ends_a_run_and_the_next_one_goes_on(server: FaultServer, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    server.next(count=12)
    server.always(drip=0.05)
    ended = load(stages(server), volume, PREHEAT_DEADLINE="3s")
    assert (ended.code, ended.message["reason"]) == (13, "Timeout")
    assert "not done within 3 s" in ended.message["message"]
    server.always()
    sent = server.sent
    assert_complete(volume, load(stages(server), volume))
    assert server.sent - sent < NEEDED


def test_a_digest_of_the_whole_object_needs_it_once_more(server: FaultServer, tmp_path: Path) -> None:
    volume, digest = tmp_path / "volume", hashlib.sha256(CHECKPOINT).hexdigest()
    server.next(count=2)
    server.always(stall_after=NEEDED // 2)
    process = start(stages(server, sha256=digest), volume)
    wait_for(lambda: server.sent > NEEDED // 2)
    process.kill()
    finish(process, volume)
    server.always()
    sent = server.sent
    assert_complete(volume, load(stages(server, sha256=digest), volume))
    assert server.sent - sent >= len(CHECKPOINT)


FAULTS: list[tuple[BaseException, bool]] = [
    (CheckpointSourceError("gone for a moment"), True),
    (AccessDeniedError("expired"), True),
    (KeyboardInterrupt(), True),
    (SourceChangedError("replaced"), False),
    (CheckpointValidationError("NaN"), False),
    (ZeroDivisionError(), False),
]


@pytest.mark.parametrize(("fault", "kept"), FAULTS, ids=lambda value: type(value).__name__)
def test_what_may_pass_keeps_what_is_done(fault: BaseException, kept: bool, tmp_path: Path) -> None:
    store, digest = Store(tmp_path), "d" * 32
    with suppress(type(fault)), store.make(digest, "pod-1") as partial:
        assert partial
        partial.weights.write_bytes(b"weights")
        begin_journal(partial.weights)
        raise fault
    assert len(bundles(tmp_path)) == kept
    with store.make(digest, "pod-2") as partial:
        assert partial
        assert partial.weights.exists() == kept
    assert bundles(tmp_path) == []


def begin_journal(output: Path) -> Journal:
    journal = Journal(output.with_name(output.name + ".journal"), "identity")
    journal.add("piece", [])
    journal.close()
    return journal


def test_what_a_living_maker_writes_to_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, digest = Store(tmp_path), "d" * 32
    frozen = store.bundles / f".partial-{digest}-pod-1"
    frozen.mkdir(parents=True)
    (frozen / "model.safetensors").write_bytes(b"weights")
    journal = Journal(frozen / "model.safetensors.journal", "identity")
    journal.add("piece", [])
    monkeypatch.setattr(lease, "EXPIRY", -1)
    with store.make(digest, "pod-2") as partial:
        assert partial
        assert not partial.weights.exists()
    journal.close()
    assert bundles(tmp_path) == []


def test_of_several_the_one_that_came_furthest_is_taken(tmp_path: Path) -> None:
    store, digest = Store(tmp_path), "d" * 32
    for number, entries in enumerate((1, 30, 2)):
        left = store.bundles / f".partial-left-{digest}-{number:016x}"
        left.mkdir(parents=True)
        (left / "model.safetensors").write_bytes(b"%d" % entries)
        journal = Journal(left / "model.safetensors.journal", "identity")
        for entry in range(entries):
            journal.add(str(entry), [])
        journal.close()
    with store.make(digest, "pod-2") as partial:
        assert partial
        assert partial.weights.read_bytes() == b"30"
        assert len(bundles(tmp_path)) == 1
