"""The verbs as people run them, on files and beside a kubectl that answers from a folder."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from preheat_operator.plugin import app
from preheat_operator.plugin.installation import DEFAULTS

DATA = Path(__file__).parents[1] / "operator" / "data"
CASES = sorted(path.name.removesuffix(".in.yaml") for path in DATA.glob("*.in.yaml"))
CHART = Path(__file__).parents[2] / "charts" / "preheat"
GOLDEN_IMAGE = "registry.example.org/preheat-loader:0.1.0"
HEAVY = {"torch", "numpy", "boto3", "pydantic", "kopf", "aiohttp", "lightkube"}


def run(*words: str | Path, code: int = 0, stdin: str | None = None) -> Any:
    done = CliRunner().invoke(app, [str(word) for word in words], input=stdin)
    assert done.exit_code == code, done.output
    return done


@pytest.mark.parametrize("case", CASES)
def test_a_rendered_pod_is_the_golden_one(case: str) -> None:
    printed = run("render", "-f", DATA / f"{case}.in.yaml", "--loader-image", GOLDEN_IMAGE).stdout
    assert yaml.safe_load(printed) == yaml.safe_load((DATA / f"{case}.out.yaml").read_text())


@pytest.fixture
def manifests(tmp_path: Path) -> dict[str, Path]:
    """A pipeline, and a Job with its label, which name no namespace."""
    pipeline, pod = yaml.safe_load_all((DATA / "gpu-container.in.yaml").read_text())
    del pipeline["metadata"]["namespace"]
    template = {"metadata": {"labels": pod["metadata"]["labels"]}, "spec": pod["spec"]}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": {"template": template}}
    paths = {name: tmp_path / f"{name}.yaml" for name in ("pipeline", "job")}
    paths["pipeline"].write_text(yaml.safe_dump(pipeline))
    paths["job"].write_text(yaml.safe_dump(job))
    return paths


def test_a_workload_is_rendered_with_its_template_injected(manifests: dict[str, Path]) -> None:
    done = run("render", "-f", manifests["job"], "-f", "-", stdin=manifests["pipeline"].read_text())
    job = yaml.safe_load(done.stdout)
    assert job["kind"] == "Job"
    [loader] = job["spec"]["template"]["spec"]["initContainers"]
    assert (loader["name"], loader["image"]) == ("preheat-loader", DEFAULTS.loader_image)
    assert "the chart's defaults" in done.stderr


def test_objects_without_namespace_are_where_the_others_are(manifests: dict[str, Path]) -> None:
    elsewhere = manifests["pipeline"].read_text().replace("metadata:\n", "metadata:\n  namespace: team-b\n")
    run("render", "-f", manifests["job"], "-f", "-", stdin=elsewhere)
    run("render", "-f", manifests["job"], "-f", "-", "-n", "team-c", stdin=elsewhere, code=1)


def test_cautions_are_warnings_beside_the_pod(tmp_path: Path) -> None:
    pipeline, pod = yaml.safe_load_all((DATA / "guaranteed.in.yaml").read_text())
    pod["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "1", "memory": "32Mi"}}
    pod["spec"]["containers"] = pod["spec"]["containers"][:1]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all([pipeline, pod]))
    done = run("render", "-f", tmp_path / "all.yaml")
    assert "warning: pod/trainer: the loader is limited to 32Mi" in done.stderr
    assert yaml.safe_load(done.stdout)["kind"] == "Pod"


def test_a_refusal_has_the_webhooks_text_and_prints_no_pod(manifests: dict[str, Path]) -> None:
    done = run("render", "-f", manifests["job"], code=1)
    assert done.stdout == ""
    assert done.stderr == (
        "job/a: label preheat.dev/pipeline: namespace default has no CheckpointPipeline 'finetune'. "
        "There is none: create it first\n"
    )


def test_text_that_kubernetes_reads_otherwise_is_quoted(manifests: dict[str, Path]) -> None:
    job = yaml.safe_load(manifests["job"].read_text())
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": "A", "value": "1e3"}, {"name": "B", "value": "y"}]
    manifests["job"].write_text(yaml.safe_dump(job).replace("kind: Job", "kind: Job\nstamp: 2026-05-04T10:00:00Z"))
    printed = run("render", "-f", manifests["job"], "-f", manifests["pipeline"]).stdout
    assert 'value: "1e3"' in printed
    assert 'value: "y"' in printed
    assert yaml.load(printed, Loader=yaml.BaseLoader)["stamp"] == "2026-05-04T10:00:00Z"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[", "is not valid YAML"),
        ("a: 1", "no Kubernetes object"),
        ("kind: ConfigMap", "hold no pod"),
        ("{kind: Pod, spec: {containers: [{image: x}]}}", "spec.containers[0].name: Field required"),
        ("{kind: Pod, spec: {containers: [{name: x, env: [{name: A, value: 1}]}]}}", "env[0].value: Input should be"),
        ("{kind: Pod, spec: {containers: [{name: x, resources: {limits: {cpu: much}}}]}}", "is not a quantity"),
        ("{kind: List, items: [1]}", "no Kubernetes object"),
    ],
)
@pytest.mark.parametrize("verb", ["render", "explain"])
def test_a_file_that_cannot_be_used_is_named_with_the_reason(verb: str, text: str, part: str) -> None:
    done = run(verb, "-f", "-", stdin=text, code=2)
    assert part in done.stderr


def test_explain_reads_files_without_a_cluster(manifests: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    done = run("explain", "-f", manifests["job"], "-f", manifests["pipeline"])
    assert "job/a in default: will be injected" in done.stdout
    assert all(line == line.rstrip() for line in done.stdout.splitlines())
    found = json.loads(run("explain", "-f", manifests["job"], "-o", "json", code=1).stdout)
    assert found["explanations"][0]["rule"] == "PipelineMissing"


def test_the_defaults_are_the_charts() -> None:
    loader = yaml.safe_load((CHART / "values.yaml").read_text())["loader"]
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert DEFAULTS.loader_image == f"{loader['image']['repository']}:{version}"
    assert DEFAULTS.image_pull_policy == loader["image"]["pullPolicy"]
    assert DEFAULTS.loader_resources == loader["resources"]
    assert DEFAULTS.loader_environment == loader["environment"]


def test_without_kubectl_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "no kubectl on PATH" in run("explain", "pod/a", code=2).stderr
    assert "give TYPE/NAME" in run("explain", code=2).stderr


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl that notes what it was asked, and answers with a pipeline that is a list without items, too."""
    (tmp_path / "kubectl").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncat {tmp_path}/answer\n')
    (tmp_path / "kubectl").chmod(0o755)
    metadata = {"name": "finetune", "namespace": "team-a", "generation": 1}
    (tmp_path / "answer").write_text(json.dumps({"metadata": metadata, "items": []}))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


def test_kubectl_is_told_where_to_ask(stub: Path) -> None:
    run("status", "ckpt/finetune", "-n", "team-a", "--context", "c", "--kubeconfig", "k")
    assert (stub / "asked").read_text().splitlines() == [
        "--context c --kubeconfig k get checkpointpipelines.preheat.dev finetune -o json -n team-a",
        "--context c --kubeconfig k get pods -l preheat.dev/pipeline=finetune -o json -n team-a",
    ]


def test_what_is_forgotten_is_written_on_the_pipeline_and_told(stub: Path) -> None:
    died = {"run": "s3://runs/exp-7/", "checkpoint": "model_cp=E4_U4", "saved": 1.0, "began": 2.0, "pod": "a",
            "time": "2026-05-04T11:00:00Z", "reason": "OOMKilled"}  # fmt: skip
    pipeline = json.loads((stub / "answer").read_text())
    status = {"deaths": [{**died, "start": "2"}, {**died, "start": "1"}]}
    (stub / "answer").write_text(json.dumps({**pipeline, "status": status}))
    said = run("forget", "ckpt/finetune", "--context", "c").stdout.splitlines()
    asked = (stub / "asked").read_text().splitlines()[-1]
    about = "--context c annotate checkpointpipelines.preheat.dev finetune"
    until = re.fullmatch(rf"{about} preheat\.dev/forget-deaths=(\S+Z) --overwrite -n team-a", asked)
    assert until
    assert said == [
        f"finetune in team-a: who began until {until[1]} does not count as having died on a checkpoint",
        "  2 on model_cp=E4_U4 of s3://runs/exp-7/",
    ]
    assert json.loads(run("forget", "finetune", "-o", "json").stdout)["deaths"] == status["deaths"]


def test_what_is_watched_is_told_once_until_it_changes_and_ends_quietly(stub: Path) -> None:
    command = [sys.executable, "-c", "from preheat_operator.plugin import main; main()", "status", "finetune", "-w"]
    with subprocess.Popen(
        [*command, "-o", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        assert json.loads(process.stdout.readline())["generation"] == 1
        answer = stub / "answer.new"
        answer.write_text((stub / "answer").read_text().replace('"generation": 1', '"generation": 2'))
        answer.rename(stub / "answer")
        assert json.loads(process.stdout.readline())["generation"] == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


def test_help_imports_nothing_heavy_and_names_the_verbs() -> None:
    script = (
        "import sys, json\nfrom preheat_operator.plugin import main\nsys.argv = ['kubectl-preheat', '--help']\n"
        "try: main()\nexcept SystemExit: pass\nprint('MODULES', json.dumps(sorted(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert HEAVY.isdisjoint(json.loads(found.partition("MODULES ")[2]))
    assert all(verb in found for verb in ("kubectl preheat", "explain", "status", "render", "forget"))


def test_the_missing_extra_is_named() -> None:
    script = (
        "import sys\nsys.modules['pydantic'] = None\nfrom preheat_operator.plugin import main\n"
        "sys.argv = ['kubectl-preheat', 'render', '-f', '-']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, input="")
    assert 'pip install "preheat[kubectl]"' in done.stderr
    assert "Traceback" not in done.stderr
