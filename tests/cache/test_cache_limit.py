"""The loader keeps its volume within a limit by itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cache.volumes import DAY, age
from formats.samples import saved
from loader.loader_process import Ended, environment, load
from sources.fault_server import FaultServer

from preheat import loader
from preheat.bundle.eviction import discard
from preheat.bundle.store import Store
from preheat.loader import Settings


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        for letter in "abc":
            running.serve(f"/{letter}.ckpt", saved({"state_dict": {letter: torch.randn(50_000)}}))
        yield running


def stages(server: FaultServer, letter: str) -> list[dict[str, Any]]:
    return [{"http": {"url": f"{server.origin}/{letter}.ckpt"}}, {"weightsOnly": {}}]


def give(server: FaultServer, letter: str, volume: Path, **settings: str) -> Ended:
    """A pod of that name is given that checkpoint."""
    return load(stages(server, letter), volume, pod=f"pod-{letter}", **settings)


def aged(volume: Path, pod: str, days: float) -> None:
    """As if the pod had come so many days ago."""
    age((volume / "pods" / pod / "bundle").resolve(), days)
    age(volume / "pods" / pod, days)


def bundles(volume: Path) -> int:
    return len(list((volume / "bundles").iterdir()))


def test_what_ended_pods_used_goes_when_the_limit_is_reached(server: FaultServer, tmp_path: Path) -> None:
    limit = {"PREHEAT_CACHE_LIMIT": "500k", "PREHEAT_POD_LIFETIME": str(7 * DAY)}
    for days, letter in ((30, "a"), (3, "b")):
        told = give(server, letter, tmp_path, **limit)
        assert told.code == 0
        aged(tmp_path, f"pod-{letter}", days)
    assert "removed the folders of 1 pod that ended" in told.log
    told = give(server, "c", tmp_path, **limit)
    assert "evicted bundle " in told.log
    assert {path.name for path in (tmp_path / "pods").iterdir()} == {"pod-b", "pod-c"}
    assert bundles(tmp_path) == 2
    assert all(Store(tmp_path).attached(pod) for pod in ("pod-b", "pod-c"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_volume_that_old_bundles_fill_takes_a_new_one(server: FaultServer, tmp_path: Path) -> None:
    volume = tmp_path / "small"
    volume.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", volume]).returncode:
        pytest.skip("may not mount")
    server.serve("/b.ckpt", saved({"state_dict": {"b": torch.randn(200_000)}}))
    server.serve("/c.ckpt", saved({"state_dict": {"c": torch.randn(200_000)}}))
    try:
        give(server, "b", volume)
        aged(volume, "pod-b", 30)
        assert give(server, "c", volume).message["reason"] == "NoSpace"
        ended = give(server, "c", volume, PREHEAT_CACHE_LIMIT="1M", PREHEAT_POD_LIFETIME="7d")
        assert ended.code == 0, ended.log
        assert "evicted bundle" in ended.log
        assert bundles(volume) == 1
    finally:
        subprocess.run(["umount", volume], check=True)


def test_without_a_lifetime_what_pods_have_used_stays_and_the_log_says_so(server: FaultServer, tmp_path: Path) -> None:
    give(server, "a", tmp_path)
    aged(tmp_path, "pod-a", 300)
    ended = give(server, "b", tmp_path, PREHEAT_CACHE_LIMIT="1Ki")
    assert ended.code == 0
    assert bundles(tmp_path) == 2
    assert " kB, the limit is 1.0 kB: the rest is in use" in ended.log


def test_a_limit_that_cannot_be_read_is_named(server: FaultServer, tmp_path: Path) -> None:
    ended = give(server, "a", tmp_path, PREHEAT_CACHE_LIMIT="200 apples")
    assert (ended.code, ended.message["reason"]) == (2, "InvalidPipeline")
    assert ended.message["message"] == "PREHEAT_CACHE_LIMIT: '200 apples' is not a size"


def test_a_bundle_that_is_found_again_counts_as_used(server: FaultServer, tmp_path: Path) -> None:
    give(server, "a", tmp_path)
    folder = (tmp_path / "pods" / "pod-a" / "bundle").resolve()
    age(folder, 30)
    load(stages(server, "a"), tmp_path, pod="another")
    assert folder.stat().st_mtime > (tmp_path / "pods").stat().st_mtime - 60


def settings(server: FaultServer, volume: Path) -> Settings:
    return Settings.read(environment(stages(server, "a"), volume, "pod-a"))


def test_a_bundle_that_goes_before_the_pod_has_it_is_made_again(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, made = loader.prepare, list[Any]()

    def prepared_and_removed(*arguments: Any, **options: Any) -> Any:
        outcome = prepare(*arguments, **options)
        made.append(outcome)
        if len(made) == 1:
            discard(tmp_path, [outcome.manifest.digest], force=True)
        return outcome

    monkeypatch.setattr(loader, "prepare", prepared_and_removed)
    assert loader.load(settings(server, tmp_path)) == made[1]
    assert Store(tmp_path).attached("pod-a")


def test_somebody_who_removes_every_bundle_is_not_worked_for_for_ever(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = loader.prepare

    def prepared_and_removed(*arguments: Any, **options: Any) -> Any:
        outcome = prepare(*arguments, **options)
        discard(tmp_path, [outcome.manifest.digest], force=True)
        return outcome

    monkeypatch.setattr(loader, "prepare", prepared_and_removed)
    with pytest.raises(loader.StorageError, match="again and again"):
        loader.load(settings(server, tmp_path))
    assert os.listdir(tmp_path / "bundles") == []
