import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from sources.fault_server import FaultServer

import preheat
from preheat import (
    compare_state_dicts,
    detect_format,
    download_with_retry,
    estimate_checkpoint_memory,
    format_size,
    get_checkpoint_metadata,
    validate_checkpoint,
)
from preheat.errors import CheckpointConfigError, CheckpointNotFoundError, CheckpointValidationError
from preheat.sources import attempts

WEIGHTS = {"a": torch.ones(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)}
LIGHTNING = {
    "state_dict": WEIGHTS, "epoch": 3, "global_step": 7, "callbacks": {}, "loops": {},
    "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(10)}}}], "hyper_parameters": {"lr": 0.1},
}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(LIGHTNING, tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


async def test_a_download_survives_faults_and_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.01)
    content = os.urandom(300_000)
    with FaultServer().running() as server:
        url = server.serve("/x", content)
        server.next(status=503)
        server.next(cut_after=1000)
        found = await download_with_retry(url, tmp_path / "new" / "x.ckpt", chunk_size=8192)
        assert found.read_bytes() == content
        assert oct(found.stat().st_mode & 0o777) == oct(0o666 & ~preheat.legacy._umask())


@pytest.mark.parametrize("fault", [{"status": 404}, {"cut_after": 1000}])
async def test_a_failed_download_leaves_what_was_there(
    fault: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.01)
    (tmp_path / "x.ckpt").write_text("before")
    with FaultServer().running() as server:
        url = server.serve("/x", os.urandom(300_000))
        server.next()
        server.always(**fault)
        with pytest.raises(preheat.CheckpointError):
            await download_with_retry(url, tmp_path / "x.ckpt", max_retries=0)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


async def test_without_retries_there_is_still_one_attempt(tmp_path: Path) -> None:
    """In Anemoi there is none, which is an error."""
    with FaultServer().running() as server:
        url = server.serve("/x", b"content")
        assert (await download_with_retry(url, tmp_path / "x.ckpt", max_retries=0)).read_bytes() == b"content"


async def test_only_urls_are_downloaded(tmp_path: Path) -> None:
    with pytest.raises(CheckpointConfigError, match="not an HTTP URL"):
        await download_with_retry("s3://bucket/key", tmp_path / "x")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (LIGHTNING, "lightning"),
        ({"state_dict": WEIGHTS, "pytorch-lightning_version": "2.6"}, "lightning"),
        ({"model_state_dict": WEIGHTS, "optimizer_state_dict": {}}, "pytorch"),
        (WEIGHTS, "state_dict"),
        ({}, "pytorch"),
        ({"state_dict": {}}, "pytorch"),
    ],
)
def test_a_format_is_told_by_what_is_there(data: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert detect_format(data) == expected
    if any(WEIGHTS is value for value in (data, *data.values())):
        torch.save(data, tmp_path / "x.th")
        assert detect_format(tmp_path / "x.th") == expected


def test_metadata_needs_no_payload(checkpoint: Path) -> None:
    found = get_checkpoint_metadata(checkpoint)
    assert (found["epoch"], found["global_step"], found["hyper_parameters"]) == (3, 7, {"lr": 0.1})
    assert (found["num_parameters"], found["num_tensors"]) == (17, 2)
    assert found["file_size_mb"] == checkpoint.stat().st_size / (1 << 20)
    with pytest.raises(CheckpointNotFoundError):
        get_checkpoint_metadata(checkpoint.parent / "no.ckpt")


def test_of_a_large_checkpoint_metadata_costs_kilobytes(tmp_path: Path) -> None:
    """Anemoi loads all of it."""
    torch.save(LIGHTNING | {"state_dict": {"a": torch.ones(1 << 20)}}, tmp_path / "x.ckpt")
    with FaultServer().running() as server:
        url = server.serve("/x.ckpt", (tmp_path / "x.ckpt").read_bytes())
        assert get_checkpoint_metadata(url)["num_parameters"] == 1 << 20
        spans = [re.fullmatch(r"bytes=(\d*)-(\d+)", request.headers["Range"]) for request in server.requests]
    sizes = [int(span[2]) - int(span[1] or 0) for span in spans if span]
    assert len(sizes) == len(spans)
    assert sum(sizes) < 100_000


def test_good_checkpoints_are_valid() -> None:
    for data in (LIGHTNING, WEIGHTS, {"model": WEIGHTS}):
        assert validate_checkpoint(data, check_tensors=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "is empty"),
        ({"epoch": 1}, "has none of state_dict, model_state_dict, model"),
        ({"state_dict": {}}, "state_dict is empty"),
        (
            {"model": {"a": torch.tensor([1.0, float("nan")])}, "x": [torch.tensor(float("inf"))]},
            r"model\.a .*; x\[0\]",
        ),
    ],
)
def test_every_problem_of_a_checkpoint_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointValidationError, match=message):
        validate_checkpoint(data, check_tensors=True)


def test_state_dicts_are_compared_from_the_models_side() -> None:
    model = {"a": torch.ones(4, 3), "new": torch.ones(1)}
    assert compare_state_dicts(WEIGHTS, model) == ({"new"}, {"b"}, {"a": ((3, 4), (4, 3))})


def test_memory_is_estimated_from_data_or_from_the_file(checkpoint: Path) -> None:
    expected = 12 * 4 + 5 * 2 + 10 * 4
    assert estimate_checkpoint_memory(LIGHTNING) == expected
    assert estimate_checkpoint_memory(checkpoint) == expected
    assert estimate_checkpoint_memory({"a": WEIGHTS["a"], "tied": WEIGHTS["a"]}) == 48


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0.00 B"), (1536, "1.50 KB"), (1_000_000, "976.56 KB"), (3 << 30, "3.00 GB"), (5 << 50, "5120.00 TB")],
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert format_size(count) == text
