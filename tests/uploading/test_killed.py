"""`kill -9` at any moment, and again: what is at the other end is whole, or it is not there."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from uploading.checkpoints_to_send import point, save, tree

NAMES = ("net_cp=E1_U10_S100", "net_cp=E2_U20_S200")
MIB = 1 << 20


def upload(bucket: Any, home: Path, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "preheat", "upload", str(home), f"s3://{bucket.name}/runs/", "--json"]
    command += ["--endpoint", bucket.endpoint]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, **environment}, **streams)


def test_killed_uploads_go_on_and_never_show_half_a_checkpoint(bucket: Any, tmp_path: Path) -> None:
    for name in NAMES:
        save(tmp_path, name, size=40 * MIB)
    point(tmp_path, "latest", NAMES[1])
    expected = {f"runs/{name}": data for name, data in tree(tmp_path).items()}
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    for _ in range(3):
        process = upload(bucket, tmp_path, PREHEAT_BANDWIDTH="60MB")
        time.sleep(moments.uniform(0.4, 1.2))  # the moment is what is tested
        process.send_signal(signal.SIGKILL)
        process.communicate()
        there = bucket.objects()
        assert there.items() <= expected.items(), seed
        for name in NAMES:
            if f"runs/{name}/manifest.json" in there:
                whole = {key for key in expected if key.startswith(f"runs/{name}/")}
                assert whole <= there.keys(), seed
    process = upload(bucket, tmp_path)
    answer, log = process.communicate(timeout=90)
    assert process.returncode == 0, log
    assert json.loads(answer)["outcome"] == "uploaded"
    assert bucket.objects() == expected, seed
    assert bucket.unfinished() == []


def test_an_upload_that_follows_sends_the_rest_when_it_is_told_to_end(bucket: Any, tmp_path: Path) -> None:
    save(tmp_path, NAMES[0])
    command = [sys.executable, "-m", "preheat", "upload", str(tmp_path), f"s3://{bucket.name}/runs/", "--follow"]
    process = subprocess.Popen(
        [*command, "--endpoint", bucket.endpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 90
    while f"runs/{NAMES[0]}/manifest.json" not in bucket.objects():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    save(tmp_path, NAMES[1])
    (tmp_path / "last.ckpt").write_bytes(b"written just now")
    process.terminate()
    said, log = process.communicate(timeout=90)
    assert process.returncode == 0, log
    assert bucket.objects() == {f"runs/{name}": data for name, data in tree(tmp_path).items()}, said


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREHEAT_BANDWIDTH", raising=False)
