"""Pods of every shape through the installed webhook: what the API server makes of them, and what it refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.commands import wait_until
from e2e.tenant import SECONDS, Tenant, pipeline, pod

pytestmark = pytest.mark.cluster

DATA = Path(__file__).parents[1] / "operator" / "data"
CASES = sorted(path.name.removesuffix(".in.yaml") for path in DATA.glob("*.in.yaml"))
LOADER, UPLOAD = "preheat-loader", "preheat-upload"
DOCUMENT_ENDS = "\n}\n{"
DRY_RUN = ("create", "--dry-run=server", "-o", "json", "-f", "-")


def found(tenant: Tenant, documents: list[Any]) -> dict[str, Any]:
    """The pods by name, as the API server would create them."""
    text = tenant.kubectl(*DRY_RUN, documents=documents)  # one document after the other
    return {each["metadata"]["name"]: each for each in json.loads(f"[{text.replace(DOCUMENT_ENDS, '},{')}]")}


@pytest.fixture(scope="module")
def shapes(tenant: Tenant) -> list[dict[str, Any]]:
    """The golden inputs, each once with the label and once without; their pipelines exist."""
    pipelines: dict[str, str] = {}
    pods = []
    for case in CASES:
        resource, given = yaml.safe_load_all((DATA / f"{case}.in.yaml").read_text())
        name = pipelines.setdefault(json.dumps(resource["spec"]), f"shape-{len(pipelines)}")
        given["spec"].update(serviceAccountName="default", automountServiceAccountToken=False)
        for label in (name, None):
            made = pod(case if label else f"plain-{case}", {}, label=label)
            made["metadata"]["labels"].update(
                {k: v for k, v in given["metadata"]["labels"].items() if "preheat" not in k}
            )
            made["metadata"]["annotations"] = given["metadata"].get("annotations", {})
            pods.append({**made, "spec": given["spec"]})
    tenant.apply(pipeline(name, json.loads(spec)) for spec, name in pipelines.items())
    return pods


@pytest.fixture(scope="module")
def admitted(tenant: Tenant, shapes: list[dict[str, Any]]) -> dict[str, Any]:
    return found(tenant, shapes)


def without_ours(given: dict[str, Any]) -> str:
    """The pod's spec without what Preheat adds to one, as text."""
    spec = copy.deepcopy(given["spec"])
    for container in spec["containers"]:
        container["env"] = [theirs for entry in container.get("env", ()) if (theirs := _variable(entry))]
        mounts = container.get("volumeMounts", ())
        container["volumeMounts"] = [each for each in mounts if each["mountPath"] != "/preheat"]
    for key, names in (("initContainers", (LOADER, UPLOAD)), ("volumes", ("preheat",))):
        spec[key] = [each for each in spec.get(key, ()) if each["name"] not in names]
    return json.dumps(spec, sort_keys=True)


def theirs(named: dict[str, str]) -> dict[str, str]:
    """Labels or annotations that are not Preheat's, nor those that an older API server gives to each container."""
    return {name: value for name, value in named.items() if "preheat" not in name}


def _variable(entry: dict[str, Any]) -> dict[str, Any] | None:
    if entry["name"].startswith("PREHEAT_"):
        return None
    if entry["name"] == "PYTHONPATH":
        _, _, value = entry.get("value", "").rpartition("/shim")
        return {**entry, "value": value.removeprefix(":")} if value else None
    return entry


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_makes_of_it_what_it_was_and_a_loader(admitted: dict[str, Any], case: str) -> None:
    injected, plain = admitted[case], admitted[f"plain-{case}"]
    if case == "pod-level-resources" and "resources" not in plain["spec"]:
        pytest.skip("this API server drops resources of a pod as a whole")
    ours = [LOADER, UPLOAD] if case.startswith("upload") else [LOADER]
    assert [each["name"] for each in injected["spec"]["initContainers"]][-len(ours) :] == ours
    if case == "upload":  # which asks for more time at its end than a pod has by default
        assert injected["spec"]["terminationGracePeriodSeconds"] == 600
        plain = {**plain, "spec": {**plain["spec"], "terminationGracePeriodSeconds": 600}}
    assert without_ours(injected) == without_ours(plain)
    assert injected["status"]["qosClass"] == plain["status"]["qosClass"]
    assert theirs(injected["metadata"]["annotations"]) == theirs(plain["metadata"].get("annotations", {}))
    assert theirs(injected["metadata"]["labels"]) == plain["metadata"].get("labels", {})


def test_pods_made_of_injected_ones_stay_as_they_are(tenant: Tenant, admitted: dict[str, Any]) -> None:
    again = found(tenant, [admitted[case] for case in CASES])
    assert [again[case]["spec"] for case in CASES] == [admitted[case]["spec"] for case in CASES]


def test_what_cannot_be_injected_is_refused_with_the_way_out(tenant: Tenant) -> None:
    def with_container(name: str, **more: Any) -> dict[str, Any]:
        return pod(name, {"containers": [{"name": "train", "image": "t", **more}]})

    from_elsewhere = {"name": "PYTHONPATH", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}
    volume = pod("volume", {"containers": [{"name": "train", "image": "t"}]})
    volume["spec"]["volumes"] = [{"name": "preheat", "configMap": {"name": "m"}}]
    windows = pod("windows", {"containers": [{"name": "train", "image": "t"}], "os": {"name": "windows"}})
    mounted = with_container("mount", volumeMounts=[{"name": "mine", "mountPath": "/preheat"}])
    mounted["spec"]["volumes"] = [{"name": "mine", "emptyDir": {}}]
    documents = [
        windows,
        volume,
        mounted,
        with_container("python-path", env=[from_elsewhere]),
        with_container("variable", env=[{"name": "PREHEAT_BUNDLE", "value": "/mine"}]),
    ]
    refusals = tenant.kubectl(*DRY_RUN, documents=documents, check=False)
    for way_out in (
        "the pod is for Windows, the loader for Linux. Remove its label",
        "volume preheat exists with other content. Preheat needs it: rename or remove it",
        "mount of container train /preheat exists with other content",
        "container train takes PYTHONPATH from a ConfigMap, Secret or field",
        "variable of container train PREHEAT_BUNDLE exists with other content",
    ):
        assert way_out in refusals
    assert refusals.count('admission webhook "pods.preheat.dev" denied the request: CheckpointPipeline') == len(
        documents
    )


#: What the pods of a strict namespace are held to.
LIMITS = {
    "max": {"cpu": "2", "memory": "1Gi"},
    "min": {"cpu": "50m", "memory": "32Mi"},
    "default": {"cpu": "500m", "memory": "256Mi"},
    "defaultRequest": {"cpu": "100m", "memory": "128Mi"},
}
QUOTA = {"pods": "20", "requests.cpu": "8", "requests.memory": "8Gi", "limits.cpu": "16", "limits.memory": "16Gi"}
RESOURCES = {
    "left-to-the-defaults": {},
    "burstable": {"requests": {"cpu": "50m", "memory": "48Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
    "guaranteed": {"limits": {"cpu": "250m", "memory": "96Mi"}},
}


@pytest.fixture(scope="module")
def strict(installed: Any) -> Any:
    """A namespace with a LimitRange and a ResourceQuota."""
    tenant = Tenant(installed)
    installed.cluster.create_namespace(tenant.namespace)
    limits = {"kind": "LimitRange", "spec": {"limits": [{"type": "Container", **LIMITS}]}}
    quota = {"kind": "ResourceQuota", "spec": {"hard": QUOTA}}
    stages = [{"http": {"url": "http://127.0.0.1:1/nothing"}}, {"weightsOnly": {}}]
    tenant.apply(
        [
            *({"apiVersion": "v1", "metadata": {"name": "strict"}, **each} for each in (limits, quota)),
            pipeline("finetune", {"stages": stages}),
        ]
    )

    def nothing_runs() -> bool:
        """Whether the check of the source is over: it counts, too."""
        phases = [each["status"]["phase"] for each in tenant.get("pods")["items"]]
        return bool(phases) and set(phases) <= {"Succeeded", "Failed"} and used(tenant).get("pods") == "0"

    wait_until("the quota is free", nothing_runs, SECONDS)
    yield tenant
    installed.kubectl("delete", "namespace", tenant.namespace, "--wait=false")


def used(tenant: Tenant) -> dict[str, str]:
    found: dict[str, str] = tenant.get("resourcequota", "strict")["status"].get("used", {})
    return found


@pytest.mark.parametrize("shape", RESOURCES)
def test_a_quota_counts_the_same_with_the_loader(strict: Tenant, shape: str) -> None:
    def counted(label: str | None) -> dict[str, str]:
        container = {"name": "train", "image": "t", "resources": RESOURCES[shape]}
        strict.apply([pod(shape, {"containers": [container], "nodeSelector": {"no": "node"}}, label=label)])
        amounts = used(strict)
        strict.kubectl("delete", "pod", shape)
        wait_until("the quota is free again", lambda: used(strict)["pods"] == "0", SECONDS)
        return amounts

    assert counted("finetune") == counted(None)
