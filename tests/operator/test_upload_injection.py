"""The container that sends what a training saves: what it sees, what it may use, and when a pod cannot have it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from any_pod import consistent

from preheat.errors import CheckpointConfigError
from preheat.uploading.sidecar import Settings as Told
from preheat_operator.api import Pipeline
from preheat_operator.injection import cautions, inject
from preheat_operator.loader_resources import quality_of_service
from preheat_operator.recipe import literally
from preheat_operator.refusal import PodRefusedError
from preheat_operator.settings import Settings

DATA = Path(__file__).parent / "data"
SETTINGS = Settings(namespace="preheat-system", loader_image="registry.example.org/preheat-loader:0.1.0")


def read(case: str = "upload") -> tuple[dict[str, Any], dict[str, Any]]:
    resource, pod = yaml.safe_load_all((DATA / f"{case}.in.yaml").read_text())
    return resource, pod


def injected(resource: dict[str, Any], pod: dict[str, Any], settings: Settings = SETTINGS) -> dict[str, Any]:
    return inject(pod, Pipeline.parse(resource), settings)


def sidecar(pod: dict[str, Any]) -> dict[str, Any]:
    [found] = [each for each in pod["spec"]["initContainers"] if each["name"] == "preheat-upload"]
    return dict(found)


def test_what_the_container_is_told_it_understands() -> None:
    environment = {each["name"]: each.get("value", "") for each in sidecar(injected(*read()))["env"]}
    told = Told.read({name: value.replace("$$", "$") for name, value in environment.items()})
    assert (str(told.path), told.to.uri) == ("/output/exp-7/checkpoints", "s3://my-runs/exp-7/$x/")
    assert (told.settle_seconds, told.patience.max_retries, told.patience.timeout_seconds) == (60, 3, 300)
    assert literally("$") in environment["PREHEAT_UPLOAD"]


@pytest.mark.parametrize("case", ["upload", "upload-guaranteed"])
def test_the_pod_keeps_its_quality_of_service(case: str) -> None:
    resource, pod = read(case)
    assert quality_of_service(injected(resource, pod)["spec"]) == quality_of_service(pod["spec"])


@pytest.mark.parametrize("case", ["upload", "upload-guaranteed"])
@pytest.mark.parametrize(
    "resources",
    [
        {"limits": {"memory": "32Mi"}},
        {"requests": {"cpu": 0}, "limits": {"cpu": "0"}},
        {"requests": {"cpu": "0", "memory": 0}, "limits": {"cpu": 0, "memory": "0"}},
    ],
)
def test_whatever_it_may_use_the_api_server_takes_the_pod(case: str, resources: dict[str, Any]) -> None:
    """No request beyond its limit, and in a Guaranteed pod nothing that is nothing."""
    resource, pod = read(case)
    resource["spec"]["upload"]["resources"] = resources
    after = injected(resource, pod)
    assert consistent(sidecar(after)["resources"])
    assert quality_of_service(after["spec"]) == quality_of_service(pod["spec"])


def test_in_a_best_effort_pod_it_asks_for_nothing() -> None:
    resource, pod = read()
    del pod["spec"]["containers"][0]["resources"]
    assert "resources" not in sidecar(injected(resource, pod))


def test_the_innermost_volume_of_the_path_is_mounted_to_be_read() -> None:
    mount = sidecar(injected(*read()))["volumeMounts"][0]
    assert mount == {"name": "output", "mountPath": "/output/exp-7", "subPath": "exp-7", "readOnly": True}


def test_a_volume_of_a_container_that_receives_no_checkpoint_will_do() -> None:
    resource, pod = read()
    saver = {"name": "saver", "image": "saver:1", "volumeMounts": pod["spec"]["containers"][0].pop("volumeMounts")}
    pod["spec"]["containers"].append(saver)
    pod["metadata"]["annotations"] = {"preheat.dev/containers": "train"}
    assert sidecar(injected(resource, pod))["volumeMounts"][0]["name"] == "output"


@pytest.mark.parametrize(
    ("mount", "says"),
    [
        ({"mountPath": "/outputs"}, "no container of the pod has a volume at /output"),
        ({"mountPath": "/", "name": "output"}, "cannot mount volume output at /"),
        ({"mountPath": "/output", "subPathExpr": "$(POD)"}, "without subPathExpr"),
    ],
)
def test_a_pod_whose_volume_cannot_be_seen_is_refused(mount: dict[str, Any], says: str) -> None:
    resource, pod = read()
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "output", **mount}]
    with pytest.raises(PodRefusedError, match=says):
        injected(resource, pod)


def test_a_volume_is_found_however_its_path_is_written() -> None:
    resource, pod = read()
    pod["spec"]["containers"][0]["volumeMounts"] = [
        {"name": "output", "mountPath": "//output/a/../exp-7/."},
        {"name": "scratch", "mountPath": "/output" + "/" * 20},
    ]
    assert sidecar(injected(resource, pod))["volumeMounts"][0]["name"] == "output"


def test_a_container_that_was_told_otherwise_is_refused() -> None:
    resource, pod = read()
    copied = injected(resource, pod)
    changed = copy.deepcopy(resource)
    changed["spec"]["upload"]["path"] = "/output/exp-7"
    with pytest.raises(PodRefusedError, match="preheat-upload that is not the upload of this pipeline as it is now"):
        injected(changed, copied)


@pytest.mark.parametrize(("grace", "expected"), [(None, 600), (30, 600), (900, 900)])
def test_the_time_at_the_end_is_raised_and_never_lowered(grace: int | None, expected: int) -> None:
    resource, pod = read()
    pod["spec"] |= {} if grace is None else {"terminationGracePeriodSeconds": grace}
    assert injected(resource, pod)["spec"]["terminationGracePeriodSeconds"] == expected


def test_little_time_at_the_end_is_warned_of() -> None:
    resource, pod = read()
    del resource["spec"]["upload"]["graceSeconds"]
    [said] = cautions(injected(resource, pod))
    assert "within 30 s of the training's end" in said
    assert cautions(injected(*read())) == []


@pytest.mark.parametrize(
    ("upload", "says"),
    [
        ({"path": "output", "to": {"s3": {"bucket": "b", "key": "k"}}}, "path"),
        ({"path": "/output", "to": {"local": {"path": "/x"}}}, "unknown component 'local'"),
        (
            {"path": "/output", "to": {"s3": {"bucket": "b", "key": "k", "anonymous": True, "secretRef": "s"}}},
            "anonymous",
        ),
        ({"path": "/output", "to": {"s3": {"bucket": "b"}}}, "key"),
        ({"path": "/output"}, "to"),
    ],
)
def test_a_resource_that_cannot_be_meant_is_refused(upload: dict[str, Any], says: str) -> None:
    resource, _ = read()
    resource["spec"]["upload"] = upload
    with pytest.raises(CheckpointConfigError, match=says):
        Pipeline.parse(resource)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"path": "/x"}', "{"])
def test_a_container_that_is_told_nonsense_says_so(text: str) -> None:
    with pytest.raises(CheckpointConfigError, match="PREHEAT_UPLOAD"):
        Told.read({"PREHEAT_UPLOAD": text})
    with pytest.raises(CheckpointConfigError, match="unknown"):
        Told.read({"PREHEAT_UPLOAD": json.dumps({"path": "/x", "to": {"local": {"path": "/y"}}, "extra": 1})})
