"""Training scripts that never mention Preheat (with torch alone: one call) go on from a checkpoint in the cluster.

Each is run here without interruption, then as a Job with the label, another seed and the checkpoint of its third step
in S3: the losses that follow are the same, bit for bit.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo import story
from demo.platforms import Local

pytestmark = pytest.mark.cluster

SCRIPTS = Path(__file__).parent / "training"
CHECKPOINTS = {
    "plain": "step=3.ckpt",
    "lightning": "step=3.ckpt",
    "transformers": "checkpoint-3/",
    "accelerate": "state/",
}


@pytest.fixture(scope="module")
def uninterrupted(platform: Local, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Losses by framework; the checkpoints are in the bucket."""
    outputs = {name: tmp_path_factory.mktemp(name) for name in CHECKPOINTS}
    running = {name: _train(name, output) for name, output in outputs.items()}
    losses = {}
    for name, process in running.items():
        output, _ = process.communicate(timeout=story.TIMEOUT_SECONDS)
        assert process.returncode == 0, output
        losses[name] = _losses(output)
        for file in outputs[name].rglob("*"):
            if file.is_file():
                platform.upload(story.BUCKET, f"{name}/{file.relative_to(outputs[name])}", file)
    return losses


@pytest.fixture(scope="module")
def resumed(platform: Local, uninterrupted: dict[str, list[str]]) -> dict[str, story.Training]:
    """The Jobs, all at once."""
    scripts = {f"{name}_run.py": (SCRIPTS / f"{name}_run.py").read_text() for name in CHECKPOINTS}
    story.apply(
        platform,
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": story.named("frameworks"), "data": scripts},
    )
    for name in CHECKPOINTS:
        story.apply(platform, _pipeline(platform, name))
        story.apply(platform, platform.with_torch(_job(name)))
    return {name: story.wait_for_job(platform, name) for name in CHECKPOINTS}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_losses_go_on_bit_for_bit(
    name: str, uninterrupted: dict[str, list[str]], resumed: dict[str, story.Training]
) -> None:
    assert len(uninterrupted[name]) == 6
    assert _losses(resumed[name].training_log) == uninterrupted[name][-3:]


@pytest.mark.parametrize("name", sorted(set(CHECKPOINTS) - {"plain"}))
def test_the_script_never_mentions_it(name: str) -> None:
    assert "preheat" not in (SCRIPTS / f"{name}_run.py").read_text().lower()


def _train(name: str, output: Path) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREHEAT_")}
    return subprocess.Popen(
        [sys.executable, SCRIPTS / f"{name}_run.py"],
        env={**environment, "OUTPUT": str(output)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _losses(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("loss ")]


def _pipeline(platform: Local, name: str) -> dict[str, Any]:
    pipeline: dict[str, Any] = yaml.safe_load((story.FINETUNE / "pipeline.yaml").read_text())
    source = pipeline["spec"]["stages"][0]
    source["s3"] |= {"endpoint": platform.s3_endpoint, "key": f"{name}/{CHECKPOINTS[name]}"}
    pipeline["metadata"]["name"] = name
    pipeline["spec"] = {"stages": [source, {"warmStart": {}}]}
    return pipeline


def _job(name: str) -> dict[str, Any]:
    job: dict[str, Any] = yaml.safe_load((story.FINETUNE / "job.yaml").read_text())
    job["metadata"]["name"] = name
    template = job["spec"]["template"]
    template["metadata"]["labels"]["preheat.dev/pipeline"] = name
    template["spec"]["volumes"] = [{"name": "app", "configMap": {"name": "frameworks"}}]
    [container] = template["spec"]["containers"]
    container["command"] = ["python3", f"/app/{name}_run.py"]
    # Accelerate leaves it to the script to know its step.
    variables = {"OUTPUT": "/tmp", "SEED": "1"} | ({"FIRST": "4"} if name == "accelerate" else {})
    container["env"] = [{"name": key, "value": value} for key, value in variables.items()]
    return job
