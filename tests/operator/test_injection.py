"""`data/<case>.in.yaml` holds a pipeline and a pod, `<case>.out.yaml` the injected pod.

PREHEAT_UPDATE_GOLDEN=1 writes the latter anew; read the difference before you commit it.
"""

from __future__ import annotations

import copy
import json
import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from preheat.errors import CheckpointConfigError
from preheat_operator.api import Pipeline
from preheat_operator.injection import cautions, inject
from preheat_operator.loader_resources import merged
from preheat_operator.refusal import PodRefusedError
from preheat_operator.settings import Settings

DATA = Path(__file__).parent / "data"
CASES = sorted(path.name.removesuffix(".in.yaml") for path in DATA.glob("*.in.yaml"))
KEPT = {"s3": {"bucket": "b", "key": "runs/", "secretRef": "keys"}}
SETTINGS = Settings(namespace="preheat-system", loader_image="registry.example.org/preheat-loader:0.1.0")


def read(case: str) -> tuple[dict[str, Any], Pipeline]:
    resource, pod = yaml.safe_load_all((DATA / f"{case}.in.yaml").read_text())
    return pod, Pipeline.parse(resource)


@pytest.fixture
def pod() -> dict[str, Any]:
    return read("one-container")[0]


@pytest.fixture
def pipeline() -> Pipeline:
    return read("one-container")[1]


@pytest.mark.parametrize("case", CASES)
def test_a_pod_of_this_shape_becomes_the_golden_one(case: str) -> None:
    injected = inject(*read(case), SETTINGS)
    golden = DATA / f"{case}.out.yaml"
    if os.environ.get("PREHEAT_UPDATE_GOLDEN"):
        golden.write_text(yaml.safe_dump(injected, sort_keys=False, width=120))
    assert injected == yaml.safe_load(golden.read_text())


@pytest.fixture(scope="module")
def acceptance(cluster: Any) -> str:
    """What the API server says to all golden pods, asked once."""
    pods = []
    for case in CASES:
        pod = yaml.safe_load((DATA / f"{case}.out.yaml").read_text())
        pod["metadata"] = {key: pod["metadata"][key] for key in ("labels", "annotations")} | {"name": case}
        pod["spec"].update(serviceAccountName="default", automountServiceAccountToken=False)
        pods.append(pod)
    words = ("create", "--namespace=default", "--dry-run=server", "--validate=strict", "-f", "-")
    said: str = cluster.kubectl(*words, input=yaml.safe_dump_all(pods), check=False)
    return said


@pytest.mark.cluster
@pytest.mark.parametrize("case", CASES)
def test_the_api_server_accepts_the_golden_pod(acceptance: str, case: str) -> None:
    assert f"pod/{case} created (server dry run)" in acceptance, acceptance


@pytest.mark.cluster
def test_pod_security_restricted_accepts_a_restricted_pod_after_injection(cluster: Any) -> None:
    pod = yaml.safe_load((DATA / "restricted.out.yaml").read_text())
    name = f"test-{secrets.token_hex(4)}"
    cluster.create_namespace(name, enforce="restricted")
    try:
        pod["metadata"].update(namespace=name)
        answer = cluster.kubectl("create", "--dry-run=server", "-f", "-", input=yaml.safe_dump(pod), check=False)
    finally:
        cluster.kubectl("delete", "namespace", name, "--wait=false")
    assert "created (server dry run)" in answer


@pytest.mark.parametrize("case", CASES)
def test_a_second_pass_changes_nothing(case: str) -> None:
    pod, pipeline = read(case)
    injected = inject(pod, pipeline, SETTINGS)
    assert inject(injected, pipeline, SETTINGS) == injected


@pytest.mark.parametrize("case", CASES)
def test_the_given_pod_is_not_changed(case: str) -> None:
    pod, pipeline = read(case)
    before = copy.deepcopy(pod)
    inject(pod, pipeline, SETTINGS)
    assert pod == before


def test_what_others_add_between_two_passes_is_left_alone(pod: dict[str, Any], pipeline: Pipeline) -> None:
    injected = copy.deepcopy(inject(pod, pipeline, SETTINGS))
    loader = injected["spec"]["initContainers"][-1]
    loader["image"] = "mirror.example.org/preheat-loader:0.1.0"
    loader["terminationMessagePath"] = "/dev/termination-log"
    loader["volumeMounts"].append({"name": "kube-api-access", "mountPath": "/var/run/secrets", "readOnly": True})
    loader["resources"] = {"limits": {"memory": "1Gi"}}
    injected["spec"]["initContainers"].append({"name": "mesh", "image": "mesh"})
    assert inject(injected, pipeline, SETTINGS) == injected


def test_a_container_that_appears_between_two_passes_receives_the_checkpoint_too(
    pod: dict[str, Any], pipeline: Pipeline
) -> None:
    injected = copy.deepcopy(inject(pod, pipeline, SETTINGS))
    injected["spec"]["containers"].append({"name": "second", "image": "trainer:1"})
    assert inject(injected, pipeline, SETTINGS)["spec"]["containers"][1]["volumeMounts"][0]["mountPath"] == "/preheat"


@pytest.mark.parametrize("case", CASES)
def test_a_loader_from_before_the_spec_changed_is_refused(case: str) -> None:
    pod, pipeline = read(case)
    copied = inject(pod, pipeline, SETTINGS)
    edited = replace(pipeline, parsed=replace(pipeline.parsed, max_retries=9), generation=pipeline.generation + 1)
    with pytest.raises(PodRefusedError, match="not the loader of this pipeline as it is now"):
        inject(copied, edited, SETTINGS)


def test_a_copied_loader_of_the_same_spec_serves_a_pipeline_that_was_made_anew(
    pod: dict[str, Any], pipeline: Pipeline
) -> None:
    copied = inject(pod, pipeline, SETTINGS)
    assert inject(copied, replace(pipeline, uid="another", generation=7), SETTINGS) == copied


@pytest.mark.parametrize("empty", [None, []], ids=["null", "empty"])
def test_null_lists_are_as_good_as_absent_ones(pod: dict[str, Any], pipeline: Pipeline, empty: Any) -> None:
    expected = inject(pod, pipeline, SETTINGS)
    pod["metadata"]["annotations"] = empty and {}
    pod["spec"].update(initContainers=empty, volumes=empty)
    pod["spec"]["containers"][0].update(env=empty, volumeMounts=empty, resources={})
    expected["spec"]["containers"][0]["resources"] = {}
    assert inject(pod, pipeline, SETTINGS) == expected


def test_what_is_already_there_and_equal_is_respected(pod: dict[str, Any], pipeline: Pipeline) -> None:
    pod["spec"]["volumes"] = [{"name": "preheat", "emptyDir": {"sizeLimit": "5Gi"}}]
    container = pod["spec"]["containers"][0]
    container["volumeMounts"] = [{"name": "preheat", "mountPath": "/preheat/", "readOnly": True}]
    container["env"] = [{"name": "PREHEAT_SHIM", "value": "auto"}]
    spec = inject(pod, pipeline, SETTINGS)["spec"]
    assert spec["volumes"] == pod["spec"]["volumes"]
    assert spec["containers"][0]["volumeMounts"] == container["volumeMounts"]
    assert [entry["name"] for entry in spec["containers"][0]["env"]].count("PREHEAT_SHIM") == 1


def test_a_size_that_the_api_server_has_written_otherwise_is_the_same_size(pod: dict[str, Any]) -> None:
    spec = {"stages": [{"s3": {"bucket": "b", "key": "k"}}], "volume": {"emptyDir": {"sizeLimit": "1024Mi"}}}
    pipeline = Pipeline.parse({"metadata": {"name": "finetune", "namespace": "team-a"}, "spec": spec})
    injected = inject(pod, pipeline, SETTINGS)
    injected["spec"]["volumes"] = [{"name": "preheat", "emptyDir": {"sizeLimit": "1Gi"}}]
    assert inject(injected, pipeline, SETTINGS) == injected


def test_what_refers_to_the_pods_uid_comes_after_it(pod: dict[str, Any], pipeline: Pipeline) -> None:
    uid = {"name": "PREHEAT_POD_UID", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}}
    pod["spec"]["containers"][0]["env"] = [{"name": "PYTHONPATH", "value": "/app"}, uid]
    injected = inject(pod, pipeline, SETTINGS)
    names = [entry["name"] for entry in injected["spec"]["containers"][0]["env"]]
    assert names == ["PREHEAT_POD_UID", "PREHEAT_BUNDLE", "PREHEAT_SHIM", "PREHEAT_ON_FAILURE", "PYTHONPATH"]
    assert inject(injected, pipeline, SETTINGS) == injected


def shaped(*, annotations: Any = None, container: Any = None, spec: Any = None) -> dict[str, Any]:
    train = {"name": "train", "image": "trainer:1", **(container or {})}
    return {"metadata": {"annotations": annotations or {}}, "spec": {"containers": [train], **(spec or {})}}


FOREIGN = {"name": "preheat-loader", "image": "other"}
FROM_ELSEWHERE = {"name": "PYTHONPATH", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}


@pytest.mark.parametrize(
    ("pod", "says"),
    [
        (
            shaped(spec={"initContainers": [FOREIGN]}),
            "container named preheat-loader that is not the loader of this pipeline as it is now. Rename it",
        ),
        (shaped(spec={"containers": [FOREIGN]}), "container named preheat-loader"),
        (
            shaped(spec={"volumes": [{"name": "preheat", "configMap": {"name": "m"}}]}),
            "volume preheat exists with other",
        ),
        (
            shaped(container={"volumeMounts": [{"name": "mine", "mountPath": "/preheat/"}]}),
            "mount of container train /preheat exists with other content",
        ),
        (
            shaped(container={"volumeMounts": [{"name": "preheat", "mountPath": "/preheat"}]}),
            "mount of container train /preheat",
        ),
        (
            shaped(container={"volumeMounts": [{"name": "mine", "mountPath": "/preheat/pods"}]}),
            "mount of container train /preheat/pods exists with other content",
        ),
        (
            shaped(container={"volumeMounts": [{"name": "mine", "mountPath": "//preheat"}]}),
            "mount of container train /preheat exists with other content",
        ),
        (
            shaped(
                container={
                    "volumeMounts": [{"name": "preheat", "mountPath": "/preheat", "readOnly": True, "subPath": "a"}]
                }
            ),
            "mount of container train /preheat exists with other content",
        ),
        (
            shaped(container={"env": [{"name": "PREHEAT_BUNDLE", "value": "/mine"}]}),
            "variable of container train PREHEAT_BUNDLE exists",
        ),
        (
            shaped(container={"env": [{"name": "PREHEAT_ON_FAILURE", "value": "Continue"}]}),
            "variable of container train PREHEAT_ON_FAILURE exists",
        ),
        (shaped(container={"env": [FROM_ELSEWHERE]}), "takes PYTHONPATH from a ConfigMap.*preheat.dev/shim: off"),
        (
            shaped(annotations={"preheat.dev/containers": "train, worker"}),
            "'worker', which is no container of the pod. Choose among train",
        ),
        (shaped(annotations={"preheat.dev/containers": ""}), "names ''"),
        (shaped(annotations={"preheat.dev/shim": "false"}), "'false'. Choose one of auto, manual, off"),
        (shaped(spec={"os": {"name": "windows"}}), "Windows"),
        (shaped(spec={"nodeSelector": {"kubernetes.io/os": "windows"}}), "Windows"),
    ],
)
def test_a_pod_that_cannot_be_injected_is_refused_with_the_way_out(pod: Any, says: str, pipeline: Pipeline) -> None:
    with pytest.raises(PodRefusedError, match=says):
        inject(pod, pipeline, SETTINGS)


def test_a_loader_of_another_pipeline_is_refused(pod: dict[str, Any], pipeline: Pipeline) -> None:
    injected = inject(pod, pipeline, SETTINGS)
    other = Pipeline(**{**vars(pipeline), "name": "other"})
    with pytest.raises(PodRefusedError, match="not the loader of this pipeline"):
        inject(injected, other, SETTINGS)


def test_a_spec_that_does_not_fit_into_the_environment_is_refused(pod: dict[str, Any]) -> None:
    resource = next(yaml.safe_load_all((DATA / "one-container.in.yaml").read_text()))
    resource["spec"]["stages"] += [{"freezing": {"layers": ["x" * 500] * 256}}]
    with pytest.raises(CheckpointConfigError, match="does not fit into the loader's environment"):
        inject(pod, Pipeline.parse(resource), SETTINGS)


@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "nvidia.com/gpu.shared"])
def test_containers_with_a_gpu_receive_the_checkpoint_alone(resource: str, pipeline: Pipeline) -> None:
    pod = shaped()
    pod["spec"]["containers"].append({"name": "gpu", "image": "t", "resources": {"limits": {resource: 1}}})
    containers = inject(pod, pipeline, SETTINGS)["spec"]["containers"]
    assert [each["name"] for each in containers if "volumeMounts" in each] == ["gpu"]


def test_no_gpu_is_asked_for_by_asking_for_none(pipeline: Pipeline) -> None:
    pod = shaped()
    pod["spec"]["containers"].append({"name": "cpu", "image": "t", "resources": {"limits": {"nvidia.com/gpu": "0"}}})
    containers = inject(pod, pipeline, SETTINGS)["spec"]["containers"]
    assert [each["name"] for each in containers if "volumeMounts" in each] == ["train", "cpu"]


@pytest.mark.parametrize(
    ("env", "given"),
    [
        (
            {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/t/x",
            },
            {"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"},
        ),
        (
            {"AZURE_CLIENT_ID": "c", "AZURE_TENANT_ID": "t", "AZURE_FEDERATED_TOKEN_FILE": "/t/x", "AZURE_OTHER": "o"},
            {"AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"},
        ),
        ({"AWS_ROLE_ARN": "r", "AWS_WEB_IDENTITY_TOKEN_FILE": "/elsewhere/x"}, set()),
        ({"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}, set()),
    ],
    ids=["EKS Pod Identity", "Azure", "a token that is not mounted", "keys of the training"],
)
def test_the_loader_has_the_identity_of_the_pods_containers_and_no_more(
    pipeline: Pipeline, env: dict[str, str], given: set[str]
) -> None:
    variables = [{"name": name, "value": value} for name, value in env.items()]
    mount = {"name": "token", "mountPath": "/t"}
    pod = shaped(container={"env": variables, "volumeMounts": [mount]})
    loader = inject(pod, pipeline, SETTINGS)["spec"]["initContainers"][0]
    assert {each["name"] for each in loader["env"] if each["name"] in env} == given
    assert loader["volumeMounts"][1:] == ([{**mount, "readOnly": True}] if given else [])


def test_secrets_of_every_source_of_a_fallback_reach_the_loader(pod: dict[str, Any]) -> None:
    sources = [
        {"s3": {"bucket": "b", "key": "k", "secretRef": "keys"}},
        {"http": {"url": "https://h/k", "secretRef": "web"}},
    ]
    spec = {"stages": [{"fallback": {"sources": sources}}]}
    pipeline = Pipeline.parse({"metadata": {"name": "finetune", "namespace": "team-a"}, "spec": spec})
    env = inject(pod, pipeline, SETTINGS)["spec"]["initContainers"][-1]["env"]
    given = {entry["name"]: entry["valueFrom"]["secretKeyRef"]["name"] for entry in env if "secretKeyRef" in str(entry)}
    assert given["AWS_ACCESS_KEY_ID"] == given["AWS_SESSION_TOKEN"] == "keys"
    assert given["PREHEAT_HTTP_TOKEN"] == given["PREHEAT_HTTP_PASSWORD"] == "web"
    [described] = [json.loads(entry["value"]) for entry in env if entry["name"] == "PREHEAT_PIPELINE"]
    assert described["spec"]["stages"] == spec["stages"]


@pytest.mark.parametrize(
    "stage", [{"run": {"root": KEPT, "runId": "r"}}, {"named": {"name": "x.pth", "bucket": KEPT}}], ids=["run", "named"]
)
def test_secrets_of_the_place_where_a_checkpoint_is_looked_for_reach_the_loader(
    pod: dict[str, Any], stage: dict[str, Any]
) -> None:
    spec = {"stages": [{"fallback": {"sources": [stage]}}]}
    pipeline = Pipeline.parse({"metadata": {"name": "finetune", "namespace": "team-a"}, "spec": spec})
    env = inject(pod, pipeline, SETTINGS)["spec"]["initContainers"][-1]["env"]
    given = {entry["name"]: entry["valueFrom"]["secretKeyRef"]["name"] for entry in env if "secretKeyRef" in str(entry)}
    assert given["AWS_ACCESS_KEY_ID"] == given["AWS_SECRET_ACCESS_KEY"] == "keys"


def test_the_installations_environment_reaches_the_loader_and_nobody_else(
    pod: dict[str, Any], pipeline: Pipeline
) -> None:
    settings = replace(SETTINGS, loader_environment={"HTTPS_PROXY": "http://proxy:3128/$(HOME)"})
    spec = inject(pod, pipeline, settings)["spec"]
    assert spec["initContainers"][-1]["env"][0] == {"name": "HTTPS_PROXY", "value": "http://proxy:3128/$$(HOME)"}
    assert all(entry["name"] != "HTTPS_PROXY" for entry in spec["containers"][0].get("env", ()))


RUN = {"local": {"path": "/output/exp-7"}}
OUTPUT = {"name": "results", "mountPath": "/output"}


def resuming(source: dict[str, Any] = RUN) -> Pipeline:
    spec = {"stages": [{"s3": {"bucket": "b", "key": "k"}}, {"weightsOnly": {}}], "resume": {"from": source}}
    return Pipeline.parse({"metadata": {"name": "finetune", "namespace": "team-a"}, "spec": spec})


def run_mounts(pod: dict[str, Any], pipeline: Pipeline | None = None) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = inject(pod, pipeline or resuming(), SETTINGS)["spec"]["initContainers"][-1][
        "volumeMounts"
    ]
    return mounts[1:]


def test_the_loader_reads_the_run_where_the_training_writes_it() -> None:
    pod = shaped(container={"volumeMounts": [OUTPUT]})
    assert run_mounts(pod) == [{**OUTPUT, "readOnly": True}]
    assert run_mounts(pod, resuming({"run": {"root": {"local": {"path": "/output"}}, "runId": "exp-7"}}))
    injected = inject(pod, resuming(), SETTINGS)
    assert inject(injected, resuming(), SETTINGS) == injected
    assert run_mounts(shaped(), resuming({"local": {"path": "/preheat/runs/exp-7"}})) == []
    assert run_mounts(shaped(), resuming({"s3": {"bucket": "runs", "key": "exp-7/"}})) == []


def test_a_pod_whose_pipeline_resumes_a_run_may_need_more_room_than_was_measured() -> None:
    pod = shaped(container={"volumeMounts": [OUTPUT]})
    assert inject(pod, resuming(), SETTINGS, PIN)["spec"]["volumes"][-1]["emptyDir"] == {}


@pytest.mark.parametrize(
    ("mounts", "says"),
    [
        ([[]], "the run is in /output/exp-7, and container c0 has no volume there. Mount the volume"),
        ([[OUTPUT], [{**OUTPUT, "mountPath": "/out"}]], "container c1 has no volume there"),
        ([[OUTPUT], [{**OUTPUT, "name": "scratch"}]], "not on the same volume in all containers"),
        ([[OUTPUT], [{**OUTPUT, "subPath": "b"}]], "not on the same volume in all containers"),
        ([[{**OUTPUT, "subPathExpr": "$(POD)"}]], "cannot mount volume results at /output"),
    ],
)
def test_a_run_that_the_loader_cannot_see_is_refused(mounts: list[list[dict[str, Any]]], says: str) -> None:
    containers = [{"name": f"c{i}", "image": "i", "volumeMounts": each} for i, each in enumerate(mounts)]
    with pytest.raises(PodRefusedError, match=says.replace("$", "[$]")):
        inject(shaped(spec={"containers": containers}), resuming(), SETTINGS)


def test_a_mount_that_would_hide_the_loaders_image_is_refused() -> None:
    pod = shaped(container={"volumeMounts": [{"name": "results", "mountPath": "/opt/"}]})
    with pytest.raises(PodRefusedError, match="cannot mount volume results at /opt"):
        inject(pod, resuming({"local": {"path": "/opt/runs"}}), SETTINGS)


def test_secrets_of_the_run_reach_the_loader_and_must_not_be_those_of_another_name(pod: dict[str, Any]) -> None:
    source = {"s3": {"bucket": "models", "key": "k", "secretRef": "runs"}}
    spec = {"stages": [source, {"weightsOnly": {}}], "resume": {"from": {"s3": {**source["s3"], "bucket": "runs"}}}}
    resource = {"metadata": {"name": "finetune", "namespace": "team-a"}, "spec": spec}
    env = inject(pod, Pipeline.parse(resource), SETTINGS)["spec"]["initContainers"][-1]["env"]
    assert sum("secretKeyRef" in str(entry) for entry in env) == 3, "each variable once"
    source["s3"]["secretRef"] = "models"
    with pytest.raises(CheckpointConfigError, match="Name the same Secret in both"):
        Pipeline.parse(resource)


def test_dollars_of_the_spec_survive_kubernetes_expansion() -> None:
    pod, pipeline = read("claim-and-secret")
    loader = inject(pod, pipeline, SETTINGS)["spec"]["initContainers"][0]
    value = next(entry["value"] for entry in loader["env"] if entry["name"] == "PREHEAT_PIPELINE")
    assert '"layers":["encoder$$","$$(HOME)"]' in value


def test_a_pod_that_may_lose_its_python_path_is_cautioned() -> None:
    injected = inject(*read("job-pod-with-service-account-token"), SETTINGS)
    assert ["envFrom" in caution for caution in cautions(injected)] == [True]


def test_a_loader_with_very_little_memory_is_cautioned(pipeline: Pipeline) -> None:
    pod = shaped()
    pod["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "1", "memory": "32Mi"}}
    assert "Raise theirs" in cautions(inject(pod, pipeline, SETTINGS))[0]


PIN = {"uri": "s3://b/k", "version": "etag:1", "outputBytes": 300 << 20}


def test_what_the_check_has_measured_bounds_the_volume_unless_the_pipeline_does(
    pod: dict[str, Any], pipeline: Pipeline
) -> None:
    def volume(declared: Any = None, pin: dict[str, Any] = PIN) -> dict[str, Any]:
        spec = {**pipeline.spec, **({"volume": declared} if declared else {})}
        return inject(pod, replace(pipeline, spec=spec), SETTINGS, pin)["spec"]["volumes"][-1]

    assert volume()["emptyDir"] == {"sizeLimit": "896Mi"}
    assert volume({"emptyDir": {"medium": "Memory"}})["emptyDir"] == {"medium": "Memory", "sizeLimit": "576Mi"}
    assert volume({"emptyDir": {"sizeLimit": "1Mi"}})["emptyDir"] == {"sizeLimit": "1Mi"}
    assert volume({"persistentVolumeClaim": {"claimName": "c"}}) == {
        "name": "preheat", "persistentVolumeClaim": {"claimName": "c"}
    }  # fmt: skip
    assert volume(pin={"uri": "s3://b/k", "version": "etag:1"})["emptyDir"] == {}
    assert volume(pin=PIN | {"outputBytes": 40 << 30})["emptyDir"] == {"sizeLimit": "81Gi"}


def test_a_volume_that_is_there_stays_as_it_is_whatever_was_measured_since(
    pod: dict[str, Any], pipeline: Pipeline
) -> None:
    injected = inject(pod, pipeline, SETTINGS, PIN)
    assert inject(injected, pipeline, SETTINGS, PIN | {"outputBytes": 1}) == injected
    assert inject(injected, pipeline, SETTINGS) == injected
    pod["spec"]["volumes"] = [{"name": "preheat", "emptyDir": {}}]
    assert inject(pod, pipeline, SETTINGS, PIN)["spec"]["volumes"] == pod["spec"]["volumes"]


def test_of_several_sources_a_pod_may_get_another_size_than_the_one_that_was_measured(pod: dict[str, Any]) -> None:
    places = [{"http": {"url": f"https://{host}.example.org/a.ckpt"}} for host in "ab"]
    spec = {"stages": [{"fallback": {"sources": places}}, {"weightsOnly": {}}]}
    several = Pipeline.parse({"metadata": {"name": "p", "generation": 1}, "spec": spec})
    assert inject(pod, several, SETTINGS, PIN)["spec"]["volumes"][-1]["emptyDir"] == {}


def test_a_pod_that_its_own_limit_would_evict_is_cautioned(pod: dict[str, Any], pipeline: Pipeline) -> None:
    limits = pod["spec"]["containers"][0].setdefault("resources", {}).setdefault("limits", {})
    limits["ephemeral-storage"] = "200Mi"
    [caution] = cautions(inject(pod, pipeline, SETTINGS, PIN), PIN)
    assert "limited to 200.0 MiB of ephemeral storage, and the bundle takes 300.0 MiB" in caution
    limits["ephemeral-storage"] = "2Gi"
    assert cautions(inject(pod, pipeline, SETTINGS, PIN), PIN) == []


def test_an_ordinary_pod_is_not_cautioned(pod: dict[str, Any], pipeline: Pipeline) -> None:
    assert cautions(inject(pod, pipeline, SETTINGS)) == []


@pytest.mark.parametrize(
    ("defaults", "own", "expected"),
    [
        ({}, {"requests": {"cpu": "1"}}, {"requests": {}, "limits": {}}),
        (
            {"limits": {"memory": "128Mi"}},
            {"requests": {"cpu": "1", "memory": "1Gi"}},
            {"requests": {"memory": "0"}, "limits": {"memory": "128Mi"}},
        ),
        (
            {"limits": {"memory": "128Mi"}},
            {"limits": {"cpu": "2", "memory": "1Gi"}},
            {"requests": {"cpu": "2", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "128Mi"}},
        ),
    ],
    ids=["none", "a limit alone", "a limit alone in a Guaranteed pod"],
)
def test_an_installation_may_leave_resources_of_the_loader_open(
    pipeline: Pipeline, defaults: Any, own: Any, expected: Any
) -> None:
    settings = Settings(namespace="preheat-system", loader_image="loader:1", loader_resources=defaults)
    spec = inject(shaped(container={"resources": own}), pipeline, settings)["spec"]
    assert spec["initContainers"][0]["resources"] == expected


@pytest.mark.parametrize(
    ("chosen", "limit"),
    [({"requests": {"memory": "256Mi"}}, "256Mi"), ({"requests": {"memory": "1Mi"}}, "128Mi"), ({}, "128Mi")],
)
def test_a_limit_that_a_pipeline_left_open_follows_its_request(chosen: Any, limit: str) -> None:
    assert merged(SETTINGS.loader_resources, chosen)["limits"]["memory"] == limit
