"""What the examples for Argo CD and Flux say is true of the chart and of the statuses that the controller writes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import lua51  # as Argo CD's own

from preheat_operator.observation import observe
from preheat_operator.status import wanted_status

ROOT = Path(__file__).parents[2]
GITOPS = ROOT / "examples" / "gitops"
SCRIPT = (GITOPS / "argocd" / "health.lua").read_text()
NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
SOURCE = {"uri": "s3://models/a.ckpt", "format": "torch-zip", "tensors": 42, "selectedBytes": 200_000_000}
MISSING = {"outcome": "failed", "reason": "NotFound", "message": "s3://models/a.ckpt does not exist"}


def pipeline(generation: int = 1, status: dict[str, Any] | None = None) -> dict[str, Any]:
    metadata = {"name": "finetune", "namespace": "team-a", "uid": "p-1", "generation": generation}
    return {"metadata": metadata, "spec": {"stages": []}} | ({"status": status} if status is not None else {})


def pod(code: int, said: dict[str, Any]) -> dict[str, Any]:
    made_from = json.dumps({"name": "finetune", "uid": "p-1", "generation": 1})
    loader = {"name": "preheat-loader", "env": [{"name": "PREHEAT_PIPELINE", "value": made_from}]}
    ended = {"exitCode": code, "message": json.dumps(said), "finishedAt": "2026-05-04T11:00:00Z"}
    return {
        "metadata": {"name": "a", "uid": "a", "creationTimestamp": "2026-05-04T10:00:00Z"},
        "spec": {"initContainers": [loader]},
        "status": {"initContainerStatuses": [{"name": "preheat-loader", "state": {"terminated": ended}}]},
    }


def written(*pods: dict[str, Any], **evidence: Any) -> dict[str, Any]:
    """The pipeline with the status that the controller writes."""
    return pipeline(status=wanted_status(pipeline(), [observe(each) for each in pods], NOW, **evidence))


def health(resource: dict[str, Any]) -> tuple[str, str]:
    """What Argo CD would show: its interpreter has the resource in `obj`."""
    runtime = lua51.LuaRuntime(register_eval=False, unpack_returned_tuples=True)
    runtime.globals().obj = runtime.table_from(resource, recursive=True)
    found = runtime.execute(SCRIPT)
    return found.status, found.message


NOT_SEEN = "the controller has not looked at this generation yet"
FAILED = written(pod(11, MISSING))


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        (pipeline(), ("Progressing", NOT_SEEN)),
        (pipeline(status={}), ("Progressing", NOT_SEEN)),
        (pipeline(2, FAILED["status"]), ("Progressing", NOT_SEEN)),
        (
            pipeline(status={"observedGeneration": 1}),
            ("Progressing", "the controller has not said yet whether it is ready"),
        ),
        (written(checking=True), ("Progressing", "accepted; the source is being read")),
        (written(), ("Healthy", "accepted; source not read yet")),
        (
            written(pod(0, {"outcome": "loaded", "source": SOURCE})),
            ("Healthy", "checkpoint s3://models/a.ckpt (torch-zip, 42 tensors, 190.7 MiB) loaded by 1 pod"),
        ),
        (
            written(pod(0, {"outcome": "loaded", "source": SOURCE}), checking=True),
            ("Healthy", "checkpoint s3://models/a.ckpt (torch-zip, 42 tensors, 190.7 MiB) loaded by 1 pod"),
        ),
        (FAILED, ("Degraded", "pod a: s3://models/a.ckpt does not exist")),
        (written(problem="stages[0]: unknown component `s4`"), ("Degraded", "stages[0]: unknown component `s4`")),
    ],
)
def test_argo_cd_shows_what_the_controller_says(resource: dict[str, Any], expected: tuple[str, str]) -> None:
    assert health(resource) == expected


def test_the_script_is_the_one_that_argo_cd_is_given() -> None:
    [(key, value)] = yaml.safe_load((GITOPS / "argocd" / "argocd-cm.yaml").read_text())["data"].items()
    assert key == "resource.customizations.health.preheat.dev_CheckpointPipeline"
    assert value == SCRIPT


def documents(path: str) -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all((GITOPS / path).read_text())}


def test_the_values_that_the_examples_give_are_the_charts(helm, tmp_path) -> None:
    application = documents("argocd/application.yaml")["Application"]["spec"]
    release = documents("flux/preheat.yaml")["HelmRelease"]["spec"]
    for path, values in (
        (application["source"]["path"], application["source"]["helm"]["valuesObject"]),
        (release["chart"]["spec"]["chart"], release["values"]),
    ):
        (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
        done = helm("template", "preheat", ROOT / path, "--values", tmp_path / "values.yaml")
        assert "registry.example.org/ml/preheat-operator:" in done.stdout, done.stderr


def test_the_examples_name_the_version_of_this_checkout() -> None:
    version = "v" + yaml.safe_load((ROOT / "charts" / "preheat" / "Chart.yaml").read_text())["version"]
    assert documents("argocd/application.yaml")["Application"]["spec"]["source"]["targetRevision"] == version
    assert documents("flux/preheat.yaml")["GitRepository"]["spec"]["ref"]["tag"] == version
