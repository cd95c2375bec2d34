import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import same, saved
from loader.beacon_client import free_port
from loader.loader_process import POD, bundles, finish, load, start
from safetensors.torch import load_file, save_file
from sources import s3_server
from sources.fault_server import FaultServer

from preheat.bundle.manifest import Manifest

WEIGHTS = {"layer.weight": torch.randn(300, 200), "layer.bias": torch.randn(300).bfloat16()}
CHECKPOINT = saved(
    {
        "state_dict": {**WEIGHTS, "tied.weight": WEIGHTS["layer.weight"]},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.randn(100_000)}}, "param_groups": [{"lr": 0.1}]}],
        "epoch": 3,
        "global_step": 17,
        "pytorch-lightning_version": "2.6.6",
        "hyper_parameters": {"width": 200, "name": "a"},
    }
)
REST: list[dict[str, Any]] = [{"verify": {"finite": True}}, {"weightsOnly": {}}, {"freezing": {"layers": ["layer"]}}]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        running.serve("/model.ckpt", CHECKPOINT)
        yield running


def stages(server: FaultServer) -> list[dict[str, Any]]:
    return [{"http": {"url": server.origin + "/model.ckpt"}}, *REST]


def test_a_lightning_checkpoint_becomes_a_bundle(server: FaultServer, tmp_path: Path) -> None:
    ended = load(stages(server), tmp_path / "volume")
    assert ended.code == 0, ended.log
    bundle = (tmp_path / "volume" / "pods" / POD / "bundle").resolve()
    expected = torch.load(io.BytesIO(CHECKPOINT), weights_only=True)["state_dict"]
    found = load_file(bundle / "model.safetensors")
    manifest = Manifest.from_json((bundle / "manifest.json").read_bytes())
    assert manifest.aliases == {"tied.weight": "layer.weight"}
    for name, tensor in expected.items():
        assert same(found[manifest.aliases.get(name, name)], tensor)
    assert manifest.state["epoch"] == 3
    assert manifest.state["hyper_parameters"] == {"width": 200, "name": "a"}
    assert manifest.stages == ({"weightsOnly": {}}, {"freezing": {"layers": ["layer"]}})
    assert (manifest.pipeline.name, manifest.pipeline.generation) == ("finetune", 7)
    assert (manifest.left.state_tensors, manifest.left.state_bytes) == (1, 400_000)
    assert ended.message == {
        "outcome": "loaded",
        "digest": manifest.digest,
        "source": {
            "uri": server.origin + "/model.ckpt",
            "version": manifest.source.version,
            "sizeBytes": len(CHECKPOINT),
            "format": "torch-zip",
            "tensors": 2,
            "parameters": 60_300,
            "selectedBytes": 240_600,
            "outputBytes": (bundle / "model.safetensors").stat().st_size,
        },
        "fetchedBytes": ended.message["fetchedBytes"],
        "seconds": ended.message["seconds"],
    }
    for said in ("reading http", "version etag:", "torch-zip (lightning)", "leaving out 1 tensor", "CRC-32", "finite"):
        assert said in ended.log


def test_the_optimizers_state_is_not_fetched(server: FaultServer, tmp_path: Path) -> None:
    ended = load(stages(server), tmp_path / "volume")
    pickle_bytes = 4096  # data.pkl of this checkpoint is smaller
    assert ended.message["fetchedBytes"] <= 1.001 * 240_600 + 65_536 + pickle_bytes
    assert server.sent == ended.message["fetchedBytes"]


def test_a_second_run_in_the_same_pod_asks_for_nothing(server: FaultServer, tmp_path: Path) -> None:
    load(stages(server), tmp_path / "volume")
    asked = len(server.requests)
    again = load(stages(server), tmp_path / "volume")
    assert (again.code, again.message["outcome"]) == (0, "reused")
    assert len(server.requests) == asked


def test_another_pod_asks_once_and_finds_the_bundle(server: FaultServer, tmp_path: Path) -> None:
    first = load(stages(server), tmp_path / "volume")
    asked = len(server.requests)
    again = load(stages(server), tmp_path / "volume", pod="another")
    assert (again.code, again.message["outcome"], again.message["digest"]) == (0, "reused", first.message["digest"])
    assert len(server.requests) == asked + 1
    assert (tmp_path / "volume" / "pods" / "another" / "bundle" / "manifest.json").exists()


def test_a_changed_pipeline_or_object_makes_another_bundle(server: FaultServer, tmp_path: Path) -> None:
    digests = [load(stages(server), tmp_path / "volume").message["digest"]]
    digests.append(load(stages(server)[:-1], tmp_path / "volume").message["digest"])
    server.serve("/model.ckpt", saved(WEIGHTS))
    digests.append(load(stages(server), tmp_path / "volume", pod="another").message["digest"])
    assert len(set(digests)) == 3
    assert {path.name for path in bundles(tmp_path / "volume")} == set(digests)


@pytest.mark.parametrize(("mode", "laid"), [("auto", True), ("manual", True), ("off", False)])
def test_the_shim_is_laid_beside_the_bundle(mode: str, laid: bool, server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "sitecustomize.py").touch()
    load(stages(server), tmp_path / "volume", PREHEAT_SHIM=mode, PREHEAT_SHIM_FOLDER=str(tmp_path / "shim"))
    assert (tmp_path / "volume" / "pods" / POD / "shim" / "sitecustomize.py").exists() == laid


def test_a_shim_that_was_lost_or_changed_is_laid_again(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "sitecustomize.py").write_text("pass")
    laid = tmp_path / "volume" / "pods" / POD / "shim" / "sitecustomize.py"
    for _ in range(2):
        ended = load(
            stages(server), tmp_path / "volume", PREHEAT_SHIM="auto", PREHEAT_SHIM_FOLDER=str(tmp_path / "shim")
        )
        assert laid.read_text() == "pass"
        laid.write_text("")
    assert ended.message["outcome"] == "reused"


def test_a_message_of_any_letters_fits_and_stays_json(tmp_path: Path) -> None:
    name = "/" + "\N{GRINNING FACE}" * 4000
    ended = load([{"local": {"path": name}}, {"weightsOnly": {}}], tmp_path / "volume")
    assert ended.message["reason"] == "SourceUnreachable"
    assert ended.message["message"].startswith("opening /\N{GRINNING FACE}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"PREHEAT_PIPELINE": "{"}, "PREHEAT_PIPELINE is not JSON"),
        ({"PREHEAT_PIPELINE": "[]"}, "PREHEAT_PIPELINE is not a JSON object"),
        ({"PREHEAT_PIPELINE": '{"spec": {"stages": [{"s4": {}}]}}'}, "unknown component 's4'"),
        ({"PREHEAT_POD_UID": ""}, "PREHEAT_POD_UID is not set"),
        ({"PREHEAT_POD_UID": "../.."}, "is no plain name"),
        ({"PREHEAT_SHIM": "always"}, "PREHEAT_SHIM is 'always'"),
    ],
    ids=str,
)
def test_a_wrong_environment_is_named(change: dict[str, str], message: str, tmp_path: Path) -> None:
    ended = load([{"local": {"path": "x"}}], tmp_path / "volume", **change)
    assert ended.code == 2
    assert ended.message["reason"] == "InvalidPipeline" if "message" in ended.message else True
    assert message in ended.log


def test_sigterm_removes_what_is_unfinished(server: FaultServer, tmp_path: Path) -> None:
    server.always(stall_after=70_000)
    process = start(stages(server), tmp_path / "volume")
    wait_for(lambda: bundles(tmp_path / "volume"))
    wait_for(lambda: len(server.requests) > 2)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    ended = finish(process, tmp_path / "volume")
    assert ended.code == 143
    assert ended.message["reason"] == "Terminated"
    assert time.monotonic() - began < 10
    assert bundles(tmp_path / "volume") == []


MOMENTS: dict[str, Callable[[Path, FaultServer], Any]] = {
    "before anything": lambda volume, server: True,
    "at the first request": lambda volume, server: server.requests,
    "with an empty partial": lambda volume, server: bundles(volume),
    "while weights arrive": lambda volume, server: list(volume.glob("bundles/.partial-*/model.safetensors")),
    "while the manifest is written": lambda volume, server: list(volume.glob("bundles/.partial-*/*manifest*")),
    "with a bundle and no pod": lambda volume, server: list(volume.glob("bundles/*/manifest.json")),
    "while the pod is attached": lambda volume, server: list(volume.glob("pods/*")),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_and_started_again_ends_with_the_bundle(
    moment: str, server: FaultServer, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    process = start(stages(server), volume)
    wait_for(lambda: MOMENTS[moment](volume, server) or process.poll() is not None, every=0)
    process.kill()
    finish(process, volume)
    ended = load(stages(server), volume)
    assert ended.code == 0, ended.log
    assert [path.name for path in bundles(volume)] == [ended.message["digest"]]
    assert [path.name for path in (volume / "pods").iterdir()] == [POD]
    found = load_file(volume / "pods" / POD / "bundle" / "model.safetensors")
    assert same(found["layer.weight"], WEIGHTS["layer.weight"])


def wait_for(condition: Callable[[], Any], every: float = 0.01) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(every)


MEASURED = """
import sys, preheat.loader
code = preheat.loader.main()
print(code, next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("large") / "large.ckpt"
    weights = {f"w{n}": torch.full((2_500_000,), float(n)) for n in range(20)} | {"wide": torch.ones(5000, 5000).t()}
    torch.save({"state_dict": weights, "epoch": 1}, path)
    yield path
    path.unlink()


def measure(stages: list[dict[str, Any]], volume: Path, **variables: str) -> tuple[float, set[str]]:
    """Peak resident memory in MiB, and what was imported."""
    from loader.loader_process import environment

    done = subprocess.run(
        [sys.executable, "-c", MEASURED], env=environment(stages, volume, **variables), capture_output=True, text=True
    )
    first, second = done.stdout.splitlines()
    assert first.split()[0] == "0", done.stderr
    return int(first.split()[1]) / 1024, set(second.split())


def test_memory_does_not_grow_with_the_checkpoint(large: Path, tmp_path: Path) -> None:
    stages = [{"local": {"path": str(large)}}, *REST]
    peak, imported = measure(stages, tmp_path / "volume", PREHEAT_PROGRESS_PORT=str(free_port()))
    assert peak <= 64
    assert not imported & {"torch", "typer", "rich", "yaml", "boto3", "botocore", "urllib3", "pydantic"}


def test_numpy_is_imported_only_to_look_at_values(server: FaultServer, tmp_path: Path) -> None:
    unasked = [{"http": {"url": server.origin + "/model.ckpt"}}, {"weightsOnly": {}}]
    _, imported = measure(unasked, tmp_path / "volume")
    assert not imported & {"numpy", "torch", "botocore"}


@pytest.mark.skipif(s3_server.executable() is None, reason="versitygw is not built; tests/cluster builds it")
def test_memory_stays_small_with_s3(large: Path, tmp_path: Path) -> None:
    (tmp_path / "s3").mkdir()
    with s3_server.running(tmp_path / "s3") as endpoint:
        client = s3_server.client(endpoint)
        client.create_bucket(Bucket="models")
        client.upload_file(str(large), "models", "large.ckpt")
        source = {"bucket": "models", "key": "large.ckpt", "endpoint": endpoint, "addressing": "path"}
        peak, imported = measure(
            [{"s3": source}, *REST], tmp_path / "volume", AWS_ACCESS_KEY_ID=s3_server.ACCESS_KEY,
            AWS_SECRET_ACCESS_KEY=s3_server.SECRET_KEY, AWS_EC2_METADATA_DISABLED="true",
        )  # fmt: skip
        client.close()
    assert peak <= 96
    assert "botocore" in imported
    assert not imported & {"torch", "boto3"}


def test_the_umask_rules_the_modes(server: FaultServer, tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        load(stages(server), tmp_path / "volume")
    finally:
        os.umask(mask)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "volume").rglob("*") if path.is_file()}
    assert modes == {0o644}


def test_memory_stays_small_with_twenty_thousand_tensors(tmp_path: Path) -> None:
    tensors = {
        f"model.layers.{number // 100}.mlp.experts.{number % 100}.down_proj.weight": torch.zeros(2)
        for number in range(20_000)
    }
    save_file(tensors, tmp_path / "many.safetensors")
    peak, _ = measure(
        [{"local": {"path": str(tmp_path / "many.safetensors")}}, {"weightsOnly": {}}], tmp_path / "volume"
    )
    assert peak <= 64
