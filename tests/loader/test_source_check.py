"""The operator's check of a source, as its Job runs it, and the version that it pins."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import saved
from loader.loader_process import Ended, bundles, environment, message_path
from safetensors.torch import load_file, save
from sources import s3_server
from sources.fault_server import FaultServer

WEIGHTS = {"layer.weight": torch.randn(300, 2000), "layer.bias": torch.randn(300)}
CHECKPOINT = saved({"state_dict": WEIGHTS, "optimizer_states": [{"state": {0: {"exp_avg": torch.randn(100_000)}}}]})


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        running.serve("/model.ckpt", CHECKPOINT)
        yield running


def run(
    module: str, stages: list[dict[str, Any]], volume: Path, pin: dict[str, str] | None = None, **more: str
) -> Ended:
    variables = environment(stages, volume, **more)
    document = json.loads(variables["PREHEAT_PIPELINE"]) | ({"pin": pin} if pin else {})
    done = subprocess.run(
        [sys.executable, "-m", module],
        env=variables | {"PREHEAT_PIPELINE": json.dumps(document)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    path = message_path(volume, variables["PREHEAT_POD_UID"])
    return Ended(done.returncode, done.stderr, json.loads(path.read_text()))


def check(stages: list[dict[str, Any]], volume: Path, **more: str) -> Ended:
    return run("preheat.source_check", stages, volume, **more)


def load(stages: list[dict[str, Any]], volume: Path, pin: dict[str, str] | None = None, **more: str) -> Ended:
    return run("preheat.loader", stages, volume, pin, **more)


def test_it_says_what_the_loader_says_and_reads_no_payload(server: FaultServer, tmp_path: Path) -> None:
    stages = [{"http": {"url": server.origin + "/model.ckpt"}}, {"weightsOnly": {}}]
    found = check(stages, tmp_path / "volume")
    assert found.code == 0, found.log
    assert server.sent < 100_000
    assert not (tmp_path / "volume").exists()
    loaded = load(stages, tmp_path / "volume")
    assert (found.message["outcome"], loaded.message["outcome"]) == ("checked", "loaded")
    assert found.message["source"] == loaded.message["source"]
    assert found.message["source"]["outputBytes"] == sum(
        file.stat().st_size for file in (tmp_path / "volume").glob("bundles/*/model.safetensors")
    )


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "NotFound"), (b"no checkpoint at all", "UnsupportedFormat"), (CHECKPOINT[:-9], None)]
)
def test_what_a_loader_would_fail_with_is_known_before(
    content: bytes | None, reason: str | None, server: FaultServer, tmp_path: Path
) -> None:
    if content is not None:
        server.serve("/other.ckpt", content)
    stages = [{"http": {"url": server.origin + "/other.ckpt"}}, {"weightsOnly": {}}]
    found, loaded = check(stages, tmp_path / "volume"), load(stages, tmp_path / "volume")
    assert found.code == loaded.code != 0
    assert found.message == loaded.message
    assert reason in (found.message["reason"], None)


def test_a_replaced_object_is_refused_where_its_version_was_checked(server: FaultServer, tmp_path: Path) -> None:
    stages = [{"http": {"url": server.origin + "/model.ckpt"}}, {"weightsOnly": {}}]
    source = check(stages, tmp_path / "volume").message["source"]
    pin = {"uri": source["uri"], "version": source["version"]}
    server.serve("/model.ckpt", saved({"state_dict": {"layer.weight": torch.zeros(300, 2000)}}))
    refused = load(stages, tmp_path / "volume", pin)
    assert refused.message["reason"] == "SourceChanged"
    assert source["version"] in refused.message["message"]
    assert "refreshSeconds" in refused.message["remedy"]
    assert not bundles(tmp_path / "volume")
    assert load(stages, tmp_path / "volume").code == 0


def test_pods_get_the_checkpoint_of_a_run_that_the_check_has_selected(tmp_path: Path) -> None:
    run, volume = tmp_path / "run", tmp_path / "volume"
    run.mkdir()
    (run / "ckpt_epoch_1.pth").write_bytes(saved({"model": {"weight": torch.ones(100)}}))
    (run / "ckpt_epoch_2.pth").write_bytes(b"")
    stages = [{"run": {"root": {"local": {"path": str(run)}}}}, {"weightsOnly": {}}]
    source = check(stages, volume).message["source"]
    assert source["uri"] == f"{run}/ckpt_epoch_1.pth"
    (run / "ckpt_epoch_2.pth").write_bytes(saved({"model": {"weight": torch.zeros(100)}}))
    pin = {"uri": source["uri"], "version": source["version"]}
    assert load(stages, volume, pin).message["source"]["uri"] == source["uri"]
    (run / "ckpt_epoch_1.pth").unlink()
    refused = load(stages, tmp_path / "another", pin).message
    assert (refused["reason"], "ckpt_epoch_1.pth was selected" in refused["message"]) == ("SourceChanged", True)


def test_another_source_of_a_fallback_is_not_held_to_the_version_of_the_first(
    server: FaultServer, tmp_path: Path
) -> None:
    first, second = ({"http": {"url": f"{server.origin}/{name}.ckpt"}} for name in ("gone", "model"))
    stages = [{"fallback": {"sources": [first, second]}}, {"weightsOnly": {}}]
    pin = {"uri": f"{server.origin}/gone.ckpt", "version": 'etag:"1"'}
    assert load(stages, tmp_path / "volume", pin).code == 0


@pytest.mark.skipif(s3_server.executable() is None, reason="versitygw is not built: `make cluster-up` builds it")
def test_a_pinned_version_of_a_versioned_bucket_is_read_although_there_is_a_newer_one(tmp_path: Path) -> None:
    volume, key = tmp_path / "volume", "model.safetensors"
    secrets = {"AWS_ACCESS_KEY_ID": s3_server.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": s3_server.SECRET_KEY}
    (tmp_path / "server").mkdir()
    with s3_server.running(tmp_path / "server") as endpoint:
        client = s3_server.client(endpoint)
        client.create_bucket(Bucket="models")
        client.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Enabled"})
        client.put_object(Bucket="models", Key=key, Body=save({"weight": torch.full((100,), 1.0)}))
        s3 = {"bucket": "models", "key": key, "endpoint": endpoint, "region": "us-east-1", "addressing": "path"}
        source = check([{"s3": s3}, {"weightsOnly": {}}], volume, **secrets).message["source"]
        client.put_object(Bucket="models", Key=key, Body=save({"weight": torch.full((100,), 2.0)}))
        pin = {"uri": source["uri"], "version": source["version"]}
        assert load([{"s3": s3}, {"weightsOnly": {}}], volume, pin, **secrets).code == 0
    [file] = volume.glob("bundles/*/model.safetensors")
    assert load_file(file)["weight"][0] == 1.0


def test_the_message_of_the_check_is_as_short_as_kubernetes_keeps(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, buffer)
    path = tmp_path / "model.pt"
    path.write_bytes(buffer.getvalue())
    found = check([{"local": {"path": str(path)}}, {"weightsOnly": {}}], tmp_path / "volume")
    assert len(json.dumps(found.message)) < 4096
    assert found.message["source"]["tensors"] == 1
