"""Bundles of a warm start: two files of tensors and a document, made in one go or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import same, saved
from safetensors.torch import load_file
from sources.fault_server import FaultServer

from preheat.bundle.store import Store
from preheat.errors import CheckpointSourceError
from preheat.prepare import Outcome, prepare
from preheat.spec import parse

MOMENTS = {n: {"step": torch.tensor(3.0), "exp_avg": torch.randn(200_000)} for n in range(2)}
TURNED = torch.randn(70, 30).t()
CHECKPOINT = saved(
    {
        "state_dict": {f"w{n}": torch.randn(200_000) for n in range(2)},
        "optimizer_states": [{"state": MOMENTS, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}],
        "callbacks": {"best": torch.tensor(float("inf")), "turned": TURNED, "view": TURNED[:5], "none": torch.empty(0)},
        "lr_schedulers": [],
        "epoch": 3,
    }
)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        running.serve("/run.ckpt", CHECKPOINT)
        yield running


def make(server: FaultServer, volume: Path, **verify: Any) -> Outcome:
    stages = [{"http": {"url": server.origin + "/run.ckpt"}}, {"verify": {"finite": True, **verify}}, {"warmStart": {}}]
    return prepare(parse({"stages": stages, "maxRetries": 0}), Store(volume), "test")


def test_every_tensor_of_the_state_arrives_whatever_its_strides(
    server: FaultServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "preheat")
    outcome = make(server, tmp_path)
    found = load_file(outcome.folder / "state.safetensors")
    for number, moments in MOMENTS.items():
        for name, value in moments.items():
            assert same(found[f"optimizer_states.0.state.{number}.{name}"], value)
    assert same(found["callbacks.turned"], TURNED)
    assert same(found["callbacks.view"], TURNED[:5])
    assert found["callbacks.none"].shape == (0,)
    assert found["callbacks.best"] == float("inf")
    assert outcome.manifest.files == {path.name: path.stat().st_size for path in outcome.folder.glob("*.s*")} | {
        "state.json": (outcome.folder / "state.json").stat().st_size
    }
    assert outcome.fetched_bytes == server.sent
    assert "with 8 tensors of training state, 1.6 MB" in caplog.text
    assert "checked: CRC-32 of 8 records" in caplog.text


def test_a_transfer_that_breaks_off_in_the_state_goes_on_there(server: FaultServer, tmp_path: Path) -> None:
    make(server, tmp_path / "reference")
    requests = len(server.requests)
    server.next(count=requests - 1)
    server.always(status=503)
    with pytest.raises(CheckpointSourceError):
        make(server, tmp_path / "volume")
    [left] = (tmp_path / "volume" / "bundles").iterdir()
    assert left.name.startswith(".partial-left-")
    server.always()
    sent = server.sent
    outcome = make(server, tmp_path / "volume")
    assert server.sent - sent < len(CHECKPOINT) - 1_500_000  # the weights are there
    [whole] = (tmp_path / "reference" / "bundles").iterdir()
    for name in ("model.safetensors", "state.safetensors", "state.json"):
        assert (outcome.folder / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(path.name for path in outcome.folder.iterdir()) == sorted([*outcome.manifest.files, "manifest.json"])


def test_a_digest_of_the_whole_object_is_compared_once(server: FaultServer, tmp_path: Path) -> None:
    outcome = make(server, tmp_path, sha256=hashlib.sha256(CHECKPOINT).hexdigest())
    assert len(load_file(outcome.folder / "state.safetensors")) == 8


def test_a_link_in_the_place_of_the_state_is_no_bundle(server: FaultServer, tmp_path: Path) -> None:
    folder = make(server, tmp_path / "volume").folder
    (folder / "state.json").rename(tmp_path / "elsewhere")
    (folder / "state.json").symlink_to(tmp_path / "elsewhere")
    again = make(server, tmp_path / "volume")
    assert not again.reused
    assert json.loads((again.folder / "state.json").read_text())["epoch"] == 3
    assert not (again.folder / "state.json").is_symlink()
