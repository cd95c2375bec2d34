import hashlib
from pathlib import Path

import pytest
import torch
from formats.samples import saved
from sources.fault_server import FaultServer

from preheat.amounts import bytes_per_second
from preheat.bundle.store import Store
from preheat.errors import CheckpointConfigError
from preheat.prepare import prepare
from preheat.spec import PipelineSpec, parse
from preheat.verbs.forecast import plan_pipeline

SHARED = torch.randn(3_000_000)
CONTENT = saved(
    {
        "state_dict": {f"w{n}": torch.randn(1_500_000) for n in range(4)} | {"one": SHARED, "tied": SHARED},
        "optimizer_states": [torch.randn(7_000_000), torch.randn(10)],
    }
)


def pipeline(url: str, **verify: object) -> PipelineSpec:
    return parse({"stages": [{"http": {"url": url}}, {"verify": verify}, {"weightsOnly": {}}]})


@pytest.mark.parametrize("verify", [{}, {"crc32": False, "finite": False}, {"sha256": "digest"}], ids=str)
def test_the_forecast_is_what_then_happens(verify: dict[str, object], tmp_path: Path) -> None:
    if "sha256" in verify:
        verify = {"sha256": hashlib.sha256(CONTENT).hexdigest()}
    with FaultServer().running() as server:
        spec = pipeline(server.serve("/x.ckpt", CONTENT), **verify)
        found = plan_pipeline(spec)
        before, sent = len(server.requests), server.sent
        assert sent < 200_000
        outcome = prepare(spec, Store(tmp_path), "me")
        requests = len(server.requests) - before - before  # the index is read again
    assert (found.tensors, found.tied) == (5, 1)
    assert (found.left_tensors, found.left_bytes) == (2, 28_000_040)
    assert found.output_bytes == (outcome.folder / "model.safetensors").stat().st_size
    assert found.selected_bytes == outcome.manifest.totals.selected_bytes == 4 * 9_000_000
    assert found.read_bytes == pytest.approx(
        outcome.fetched_bytes, abs=1 << 17
    )  # what the first request brought is kept
    assert found.requests == pytest.approx(requests, abs=1)
    assert found.seconds(1e6) == found.read_bytes / 1e6
    assert found.remaining == ({"weightsOnly": {}},)


def test_a_conversion_is_part_of_the_forecast(tmp_path: Path) -> None:
    weights = {"a": torch.randn(900, 100), "strided": torch.randn(70, 80).t(), "head": torch.randn(1000)}
    torch.save({"state_dict": weights}, tmp_path / "x.ckpt")
    convert = {"exclude": ["^head$"], "dtype": "bfloat16"}
    stages = [{"local": {"path": str(tmp_path / "x.ckpt")}}, {"convert": convert}, {"weightsOnly": {}}]
    spec = parse({"stages": stages})
    found = plan_pipeline(spec)
    outcome = prepare(spec, Store(tmp_path / "out"), "me")
    assert (found.tensors, found.parameters) == (2, 95_600)
    assert (found.excluded_tensors, found.excluded_bytes) == (1, 4000)
    assert found.output_bytes == (outcome.folder / "model.safetensors").stat().st_size
    assert found.read_bytes == pytest.approx(outcome.fetched_bytes, abs=1 << 10)


def test_averages_are_forecast_in_place_of_the_raw_weights(tmp_path: Path) -> None:
    weights = {"a": torch.randn(900, 100), "b": torch.randn(1000)}
    torch.save({"state_dict": weights, "ema": {"a": torch.randn(900, 100)}, "epoch": 1}, tmp_path / "x.ckpt")
    stages = [{"local": {"path": str(tmp_path / "x.ckpt")}}, {"weightsOnly": {"ema": "auto"}}]
    spec = parse({"stages": stages})
    found = plan_pipeline(spec)
    outcome = prepare(spec, Store(tmp_path / "out"), "me")
    assert found.average == "ema; without an average, and as they were: b"
    assert found.to_json()["average"] == found.average == outcome.manifest.source.average
    assert (found.tensors, found.left_tensors, found.excluded_tensors) == (2, 1, 0)
    assert found.read_bytes == pytest.approx(outcome.fetched_bytes, abs=1 << 10)


def test_a_warm_start_takes_the_training_state_too(tmp_path: Path) -> None:
    model = torch.nn.Linear(300, 300)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(300)).sum().backward()
    optimizer.step()
    with FaultServer().running() as server:
        content = saved({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()})
        spec = parse({"stages": [{"http": {"url": server.serve("/x.ckpt", content)}}, {"warmStart": {}}]})
        found = plan_pipeline(spec)
        outcome = prepare(spec, Store(tmp_path), "me")
    assert (found.left_tensors, found.training_tensors, found.training_bytes) == (0, 6, 2 * 361_200 + 8)
    files = outcome.manifest.files
    assert files.keys() == {"model.safetensors", "state.json", "state.safetensors"}
    assert found.output_bytes == sum(files.values())
    assert found.read_bytes == pytest.approx(outcome.fetched_bytes, abs=1 << 17)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("100MB/s", 1e8), ("1.5 GB/s", 1.5e9), ("10Gbit/s", 1.25e9), ("1GiB/s", 1 << 30), ("500", 500), ("8kbps", 1000)],
)
def test_a_bandwidth_is_read_as_people_write_it(text: str, rate: float) -> None:
    assert bytes_per_second(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "0MB/s", "-1", "10 furlongs"])
def test_what_is_no_bandwidth_is_refused(text: str) -> None:
    with pytest.raises(CheckpointConfigError, match="is not a bandwidth"):
        bytes_per_second(text)
