"""One transfer goes on where another ended, however that was."""

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import BytesBlob, same, saved
from safetensors.torch import load_file, save_file

from preheat.blob import Patience
from preheat.checks import Checks, Findings
from preheat.errors import CheckpointValidationError
from preheat.formats import read_index
from preheat.joined_blob import JoinedBlob
from preheat.plan import make_plan
from preheat.sources.local import LocalSource
from preheat.spec import parse
from preheat.transfer import engine
from preheat.transfer.engine import transfer
from preheat.transfer.journal import Journal
from preheat.transfer.output import file_system_of, opened
from preheat.transfer.pace import Pace

PIECE = 4096
SHARED = torch.randn(3000)
TENSORS = {
    "plain": torch.randn(9000, 7),
    "small": torch.randn(13),
    "low": SHARED[:2000],
    "high": SHARED[999:],
    "gathered": torch.randn(60, 50).t(),
    "half": torch.randn(7001).half(),
}
CONTENT = saved({"state_dict": TENSORS, "optimizer_states": [torch.randn(5000)]})
CONVERT = {"convert": {"dtype": "bfloat16"}}


@pytest.fixture(autouse=True)
def many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "REMOTE", Pace(2, 1000, PIECE))


class Counting(BytesBlob):
    """Counts what is read, and is gone after so many bytes."""

    def __init__(self, content: bytes, ends_after: float = float("inf"), version: str = "1") -> None:
        super().__init__(content)
        self.version = version
        self.passed = 0
        self.ends_after = ends_after

    def read(self, start: int, stop: int) -> bytes:
        self.passed += stop - start
        if self.passed > self.ends_after:
            raise KeyboardInterrupt
        return super().read(start, stop)


def move(
    blob: BytesBlob, folder: Path, checks: Checks | None = None, convert: dict[str, Any] | None = None
) -> Findings:
    stages = [{"local": {"path": "x"}}, *([convert] if convert else []), {"weightsOnly": {}}]
    findings = Findings(("finite",))
    checks = checks or Checks(finite=True)
    plan = make_plan(read_index(BytesBlob(CONTENT)), parse({"stages": stages}))
    transfer(plan, blob, folder / "out", checks, findings=findings, journal=folder / "journal")
    return findings


def interrupted(folder: Path, ends_after: int, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        move(Counting(CONTENT, ends_after), folder, **options)


def rest(folder: Path, version: str = "1", **options: Any) -> int:
    """Bytes that the second transfer reads."""
    blob = Counting(CONTENT, version=version)
    move(blob, folder, **options)
    return blob.passed


def assert_right(folder: Path, convert: bool = False) -> None:
    found = load_file(folder / "out")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert same(found[name], tensor.bfloat16() if convert else tensor), name


@pytest.mark.parametrize("convert", [None, CONVERT], ids=["as they are", "converted"])
@pytest.mark.parametrize("checks", [Checks(), Checks(crc32=False), Checks(finite=True)], ids=str)
def test_what_has_passed_does_not_pass_again(checks: Checks, convert: dict[str, Any] | None, tmp_path: Path) -> None:
    whole = Counting(CONTENT)
    move(whole, tmp_path, checks, convert)
    for path in tmp_path.iterdir():
        path.unlink()
    for ends_after in (20_000, 100_000, 150_000):
        interrupted(tmp_path, ends_after, checks=checks, convert=convert)
    blob = Counting(CONTENT)
    move(blob, tmp_path, checks, convert)
    assert blob.passed < whole.passed / 3
    assert_right(tmp_path, bool(convert))


def test_it_may_end_again_and_again(tmp_path: Path) -> None:
    blob, attempts = Counting(CONTENT, 40_000), 0
    while attempts < 50:
        try:
            move(blob, tmp_path)
            break
        except KeyboardInterrupt:
            blob, attempts = Counting(CONTENT, 40_000), attempts + 1
    assert 4 < attempts < 15
    assert_right(tmp_path)


def damage(offset: int) -> Callable[[Path], None]:
    def flip(folder: Path) -> None:
        with (folder / "out").open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))

    return flip


def cut(folder: Path) -> None:
    with (folder / "out").open("r+b") as file:
        file.truncate(5000)


def tear(folder: Path) -> None:
    content = (folder / "journal").read_bytes()
    (folder / "journal").write_bytes(content[:-7])


def garble(folder: Path) -> None:
    content = (folder / "journal").read_bytes()
    (folder / "journal").write_bytes(content[:400] + bytes(300) + content[700:])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a bit of the output": damage(50_000),
    "a bit of a gathered tensor": damage(2000),
    "a bit of the header": damage(20),
    "an output that was cut": cut,
    "no output": lambda folder: (folder / "out").unlink(),
    "no journal": lambda folder: (folder / "journal").unlink(),
    "a torn journal": tear,
    "a garbled journal": garble,
    "an empty journal": lambda folder: (folder / "journal").write_bytes(b""),
    "something else": lambda folder: (folder / "journal").write_bytes(b"\xff" * 100),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_was_damaged_meanwhile_passes_again(what: str, tmp_path: Path) -> None:
    interrupted(tmp_path, 300_000)
    DAMAGES[what](tmp_path)
    rest(tmp_path)
    assert_right(tmp_path)


def test_a_bit_of_the_output_costs_one_piece(tmp_path: Path) -> None:
    interrupted(tmp_path, 300_000)
    for name in ("out", "journal"):
        (tmp_path / f"{name}.copy").write_bytes((tmp_path / name).read_bytes())
    undamaged = rest(tmp_path)
    for name in ("out", "journal"):
        (tmp_path / f"{name}.copy").rename(tmp_path / name)
    damage(50_000)(tmp_path)
    assert 0 < rest(tmp_path) - undamaged <= 2 * PIECE


def test_another_version_or_other_checks_begin_anew(tmp_path: Path) -> None:
    needed = Counting(CONTENT)
    move(needed, tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    interrupted(tmp_path, 200_000)
    assert rest(tmp_path, version="2") == needed.passed
    assert_right(tmp_path)


def test_a_link_in_the_place_of_the_output_is_not_written_through(tmp_path: Path) -> None:
    interrupted(tmp_path, 200_000)
    (tmp_path / "victim").write_bytes((tmp_path / "out").read_bytes())
    (tmp_path / "out").unlink()
    (tmp_path / "out").symlink_to(tmp_path / "victim")
    before = (tmp_path / "victim").read_bytes()
    rest(tmp_path)
    assert (tmp_path / "victim").read_bytes() == before
    assert_right(tmp_path)


def test_what_was_warned_of_is_found_again(tmp_path: Path) -> None:
    content = saved({"w": torch.tensor([float("nan")] + [0.0] * 100_000)})
    plan = make_plan(read_index(BytesBlob(content)), parse({"stages": [{"local": {"path": "x"}}, {"weightsOnly": {}}]}))
    checks = Checks(finite=True)
    paths = {"path": tmp_path / "out", "journal": tmp_path / "journal"}
    with pytest.raises(KeyboardInterrupt):
        transfer(plan, Counting(content, 200_000), checks=checks, findings=Findings(("finite",)), **paths)
    findings = Findings(("finite",))
    transfer(plan, Counting(content), checks=checks, findings=findings, **paths)
    assert findings.warnings == ("tensor 'w' holds NaN or infinity",)


def test_a_digest_that_combines_is_right_over_both_parts(tmp_path: Path) -> None:
    anycrc = pytest.importorskip("anycrc")
    digest = f"{anycrc.Model('CRC64-NVME').calc(CONTENT):016x}"
    interrupted(tmp_path, 200_000, checks=Checks(crc64nvme=digest))
    assert rest(tmp_path, checks=Checks(crc64nvme=digest)) < len(CONTENT) / 1.5
    assert_right(tmp_path)
    interrupted(tmp_path / "..", 200_000, checks=Checks(crc64nvme="0" * 16))
    with pytest.raises(CheckpointValidationError, match=digest):
        rest(tmp_path / "..", checks=Checks(crc64nvme="0" * 16))


def test_a_digest_that_needs_every_byte_in_order_begins_anew(tmp_path: Path) -> None:
    checks = Checks(sha256=hashlib.sha256(CONTENT).hexdigest())
    interrupted(tmp_path, 300_000, checks=checks)
    assert rest(tmp_path, checks=checks) >= len(CONTENT)
    assert_right(tmp_path)


def test_the_journal_of_a_transfer_that_lives_is_locked(tmp_path: Path) -> None:
    import fcntl

    journal = Journal(tmp_path / "journal", "one")
    assert not (tmp_path / "journal").exists()
    journal.add("a", [1])
    with (tmp_path / "journal").open("r+b") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        journal.close()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_entries_survive_but_for_those_behind_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, "one")
    for number in range(20):
        journal.add(str(number), [number])
    journal.close()
    content = path.read_bytes()
    for length in random.Random(7).sample(range(len(content)), 40):
        path.write_bytes(content[:length])
        again = Journal(path, "one")
        assert list(again.found) == [str(n) for n in range(len(again.found))]
        again.add("more", 1)
        again.close()
        assert Journal(path, "one").found == {**again.found, "more": 1}
    path.write_bytes(content)
    assert Journal(path, "another").found == {}


def test_room_is_set_aside_first_where_that_is_cheap(tmp_path: Path) -> None:
    size = 10 << 20
    with opened(tmp_path / "out", size, None) as target:
        cheap = file_system_of(target) in ("ext4", "xfs")
        assert (os.fstat(target).st_blocks * 512 >= size) == cheap
        assert os.fstat(target).st_size == size


def test_file_systems_are_told_apart() -> None:
    with open("/proc/self/status") as file:
        assert file_system_of(file.fileno()) == "proc"


def test_only_the_rest_has_to_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tmp_path, 200_000)
    wanted: list[int] = []
    monkeypatch.setattr("preheat.transfer.output.require_space", lambda folder, size: wanted.append(size))
    rest(tmp_path)
    assert wanted[0] < (tmp_path / "out").stat().st_size


def test_files_that_were_finished_need_not_be_read_for_their_digests_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [{f"w{shard}.{number}": torch.randn(5000) for number in range(4)} for shard in range(4)]
    names = [f"model-{number}.safetensors" for number in range(4)]
    (tmp_path / "source").mkdir()
    for name, tensors in zip(names, shards, strict=True):
        save_file(tensors, tmp_path / "source" / name)
    weight_map = {key: name for name, tensors in zip(names, shards, strict=True) for key in tensors}
    index_file = tmp_path / "source" / "model.safetensors.index.json"
    index_file.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    blob = LocalSource(str(index_file)).open(Patience())
    signed = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in index_file.parent.iterdir()}
    plan = make_plan(read_index(blob), parse({"stages": [{"local": {"path": "x"}}, {"weightsOnly": {}}]}))
    read = blob.fetched

    def run() -> None:
        transfer(plan, blob, tmp_path / "out", Checks(signed=signed), journal=tmp_path / "journal")

    def end_early(self: JoinedBlob, start: int, stop: int, buffer: memoryview) -> Iterator[memoryview]:
        if start >= 3 * blob.size // 4:
            raise KeyboardInterrupt
        yield from stream(self, start, stop, buffer)

    stream = JoinedBlob.stream
    with monkeypatch.context() as patch:
        patch.setattr(JoinedBlob, "stream", end_early)
        patch.setattr(JoinedBlob, "close", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            run()
    first, read = blob.fetched - read, blob.fetched
    run()
    assert first > blob.size // 4
    assert blob.fetched - read <= blob.size - first
    assert load_file(tmp_path / "out").keys() == weight_map.keys()
    blob.close()
