"""The MutatingAdmissionPolicy beside the webhook's own function: the real API server must make the same pod of both.

Every pod is created as a dry run: once with its label, which the policy injects, and once without it, after
`injection.inject` has injected what the API server had made of the pod by then.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from any_pod import any_pod
from hypothesis import given, settings
from hypothesis import strategies as st
from lightkube import ApiError, AsyncClient, Client, KubeConfig

from cluster.binaries import KUBERNETES, NEWEST
from cluster.commands import wait_until
from crds import installed
from preheat.errors import CheckpointError
from preheat_operator import kube, source_check
from preheat_operator.api import LABEL, Pipeline
from preheat_operator.controller import Controller
from preheat_operator.injection import cautions, inject
from preheat_operator.json_patch import json_patch
from preheat_operator.settings import Settings

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(KUBERNETES is not NEWEST, reason="MutatingAdmissionPolicy is v1 since Kubernetes 1.36"),
]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "preheat"
GOLDEN = ROOT / "tests" / "operator" / "data"
CASES = sorted(path.name.removesuffix(".in.yaml") for path in GOLDEN.glob("*.in.yaml"))
IMAGE = "registry.example.org/preheat-loader:0.1.0"
VALUES = {
    "injection": "policy",
    "loader": {
        "image": {"repository": IMAGE.partition(":")[0], "tag": IMAGE.partition(":")[2]},
        "environment": {"HTTPS_PROXY": 'http://proxy:3128/$(HOME)"\\'},
    },
}
SETTINGS = Settings("preheat-system", IMAGE, injection="policy", loader_environment=VALUES["loader"]["environment"])  # type: ignore[index]

Object = dict[str, Any]


class Place:
    """A namespace whose pods are injected by the policy."""

    def __init__(self, cluster: Any, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.config = KubeConfig.from_file(cluster.kubeconfig)
        patience = httpx2.Timeout(60)
        self._dry = Client(self.config, dry_run=True, timeout=patience)
        self._real = Client(self.config, timeout=patience)
        self.warnings: list[str] = []  # of the last pod
        transport: Any = self._dry._client
        transport._client.event_hooks["response"].append(self._warned)

    def _warned(self, response: httpx2.Response) -> None:
        self.warnings = response.headers.get_list("warning")

    def close(self) -> None:
        self._dry.close()
        self._real.close()

    def pipeline(self, name: str, spec: Object) -> None:
        """Create a pipeline that the controller has not seen yet."""
        metadata = {"name": name, "namespace": self.namespace}
        self._real.create(kube.CheckpointPipeline(metadata=metadata, spec=spec))

    def resource(self, name: str) -> Object:
        return dict(self._real.get(kube.CheckpointPipeline, name, namespace=self.namespace))

    def pin(self, name: str, generation: int, **check: Any) -> None:
        """As if a check had ended."""
        self.tell(name, {"observedGeneration": generation, "check": {"time": "2026-01-01T00:00:00Z", **check}})

    def tell(self, name: str, status: Object) -> None:
        """As if the controller had seen that."""
        wanted: Any = kube.CheckpointPipeline.Status(**{**self.resource(name), "status": status})
        self._real.replace(wanted, name, namespace=self.namespace)

    def prepare(self, *names: str) -> None:
        """Let the controller look at these pipelines."""

        async def look() -> None:
            client = AsyncClient(self.config, field_manager="preheat-controller")
            controller = Controller(client, Settings("preheat-system", IMAGE, injection="policy", check=False))
            await asyncio.gather(*(controller.refresh((self.namespace, name)) for name in names))
            await client.close()

        asyncio.run(look())

    def created(self, pod: Object, pipeline: str | None = None) -> Object:
        """What the API server makes of the pod, with the label of a pipeline or without; raises ApiError."""
        pod = copy.deepcopy(pod)
        metadata = pod.setdefault("metadata", {})
        labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != LABEL}
        metadata["labels"] = labels | ({LABEL: pipeline} if pipeline else {})
        metadata.update(name="pod", namespace=self.namespace)
        return dict(self._dry.create(kube.Pod(**pod)))

    def injected(self, pod: Object, name: str) -> Object:
        """What the webhook's function makes of what the API server made; raises CheckpointError."""
        resource = self.resource(name)
        return inject(pod, Pipeline.parse(resource), SETTINGS, source_check.pin_of(resource))


def rendered(cluster: Any, folder: Path, name: str, *templates: str) -> list[Object]:
    """The chart's policies of that name, for pods of the namespace with that name alone."""
    values = folder / "values.yaml"
    values.write_text(yaml.safe_dump({**VALUES, "fullnameOverride": name}))
    shown = [word for template in templates for word in ("--show-only", f"templates/{template}.yaml")]
    text = cluster.helm("template", name, CHART, "--kube-version", "1.36.0", "--values", values, *shown)
    documents = [document for document in yaml.safe_load_all(text) if document]
    for document in documents:
        if "matchConstraints" in document["spec"]:
            selected = {"matchLabels": {"kubernetes.io/metadata.name": name}}
            document["spec"]["matchConstraints"]["namespaceSelector"] = selected
    return documents


@pytest.fixture(scope="module")
def place(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    name, folder = f"test-{secrets.token_hex(4)}", tmp_path_factory.mktemp("policy")
    with installed(cluster):
        policies = rendered(cluster, folder, name, "injection/policy", "policy/require-loader")
        limits = rendered(cluster, folder, name, "policy/limit-recipes", "policy/warn")
        manifest, limit = (yaml.safe_dump_all(each) for each in (policies, limits))
        place, wrong = Place(cluster, name), shaped(volumes=[{"name": "preheat", "configMap": {"name": "m"}}])
        try:
            cluster.kubectl("create", "namespace", name)
            cluster.kubectl("create", "-f", "-", input=manifest)
            for case in CASES:
                resource = read(case)[0]
                place.pipeline(case, resource["spec"])
                if deaths := resource.get("status", {}).get("deaths"):
                    place.tell(case, {"deaths": deaths})
            place.pin("one-container", 1, uri="s3://my-models/model.ckpt", version='etag:"a"', outputBytes=10**9)
            place.pipeline("full", FULL)
            place.pipeline("bounded", BOUNDED)
            place.pipeline("resuming", RESUMING)
            place.pipeline("sending", SENDING)
            place.prepare(*CASES, "full", "bounded", "resuming", "sending")
            wait_until("the policy injects", lambda: "Preheat needs" in str(by_policy(place, wrong, "full")), 30)
            cluster.kubectl("create", "-f", "-", input=limit)
            yield place
        finally:
            cluster.kubectl("delete", "-f", "-", "--ignore-not-found", input=f"{manifest}---\n{limit}")
            cluster.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")
            place.close()


def read(case: str) -> tuple[Object, Object]:
    """A pipeline and a pod of the injection's tests, the pod as this namespace can have it."""
    resource, pod = yaml.safe_load_all((GOLDEN / f"{case}.in.yaml").read_text())
    pod["metadata"].pop("ownerReferences", None)
    pod["spec"].update(serviceAccountName="default", automountServiceAccountToken=False)
    return resource, pod


def comparable(pod: Object) -> Object:
    """Without what the API server gives every pod anew, and without the label."""
    metadata = pod["metadata"]
    labels = {key: value for key, value in metadata.get("labels", {}).items() if key != LABEL}
    return {"metadata": {"annotations": metadata.get("annotations"), "labels": labels}, "spec": pod["spec"]}


@pytest.mark.parametrize("case", CASES)
def test_the_policy_makes_the_pod_that_the_webhook_makes(place: Place, case: str) -> None:
    pod = read(case)[1]
    by_policy = place.created(pod, case)
    by_webhook = place.created(place.injected(place.created(pod), case))
    assert comparable(by_policy) == comparable(by_webhook)


@pytest.mark.parametrize("case", CASES)
def test_neither_a_second_pass_nor_the_webhook_adds_anything(place: Place, case: str) -> None:
    """As where another plugin has the API server ask again, and where both ways are installed at once."""
    once = place.created(read(case)[1], case)
    assert comparable(place.created(comparable(once), case)) == comparable(once)
    assert json_patch(once, place.injected(once, case)) == []


def test_the_version_that_a_check_has_found_reaches_the_loader(place: Place) -> None:
    container = place.created(read("one-container")[1], "one-container")["spec"]["initContainers"][-1]
    [told] = [json.loads(entry["value"]) for entry in container["env"] if entry["name"] == "PREHEAT_PIPELINE"]
    assert told["pin"] == {"uri": "s3://my-models/model.ckpt", "version": 'etag:"a"', "outputBytes": 10**9}


FULL: Object = {
    "stages": [{"s3": {"bucket": "my-models", "key": "a$b.ckpt", "secretRef": "keys"}}, {"warmStart": {}}],
    "onFailure": "Continue",
    "volume": {"persistentVolumeClaim": {"claimName": "checkpoints"}, "cache": {"maxSize": "1.5Ti"}},
    "loader": {
        "bandwidth": "200M",
        "deadlineSeconds": 3600,
        "resources": {"requests": {"cpu": 2, "memory": "300Mi"}, "limits": {"memory": 536870912}},
    },
}
RESUMING: Object = {**FULL, "resume": {"from": {"local": {"path": "/output/exp-7"}}}}
SENDING: Object = {
    **{key: FULL[key] for key in ("stages", "onFailure")},
    "upload": {
        "path": "/a/exp-7/",
        "to": {"s3": {"bucket": "runs", "key": "a$b/", "secretRef": "writer"}},
        "bandwidth": "1.5G",
        "graceSeconds": 90,
        "resources": {"requests": {"cpu": "0.5"}, "limits": {"memory": "48Mi"}},
    },
}
BOUNDED: Object = {**FULL, "volume": {"emptyDir": {"sizeLimit": "1024Mi"}}}  # for the API server 1Gi


def shaped(*, annotations: Object | None = None, container: Object | None = None, **spec: Any) -> Object:
    train = {"name": "train", "image": "trainer:1", **(container or {})}
    names = {"serviceAccountName": "default", "automountServiceAccountToken": False}
    return {"metadata": {"annotations": annotations or {}}, "spec": {"containers": [train], **names, **spec}}


def mounted(**mount: Any) -> Object:
    volumes = [{"name": "preheat", "emptyDir": {}}, {"name": "mine", "emptyDir": {}}]
    return shaped(container={"volumeMounts": [mount]}, volumes=volumes)


UID = {"name": "PREHEAT_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
KEY = {"configMapKeyRef": {"name": "m", "key": "k"}}
CROWD = [
    {
        "name": f"c{number}",
        "image": "i",
        "env": [{"name": f"V{each}", "value": "x" * 100} for each in range(5)],
        "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "3Mi"}},
    }
    for number in range(100)
]
SHAPES = {
    "many containers": shaped(
        containers=CROWD, initContainers=[{**each, "name": f"i{each['name']}"} for each in CROWD[:20]]
    ),
    "resources of the pod": shaped(resources={"requests": {"cpu": "1"}, "limits": {"cpu": "1", "memory": "0.5Gi"}}),
    "odd amounts": shaped(container={"resources": {"requests": {"cpu": "15e-3", "memory": "1e6"}}}),
    "the uid behind what refers to it": shaped(container={"env": [{"name": "A", "value": "$(PREHEAT_POD_UID)"}, UID]}),
    "mounted as wanted": mounted(name="preheat", mountPath="/preheat/", readOnly=True),
    "mounted nearby": mounted(name="mine", mountPath="/preheat2"),
    "another loader": shaped(initContainers=[{"name": "preheat-loader", "image": "l", "command": ["true"]}]),
    "a container of the loader's name": shaped(containers=[{"name": "preheat-loader", "image": "i"}]),
    "another volume": shaped(volumes=[{"name": "preheat", "configMap": {"name": "m"}}]),
    "a mount that can be written": mounted(name="preheat", mountPath="/preheat"),
    "a part of the mount": mounted(name="preheat", mountPath="/preheat", readOnly=True, subPath="a"),
    "another mount in its place": mounted(name="mine", mountPath="//preheat/./pods"),
    "another mount by a detour": mounted(name="mine", mountPath="/../data/a/b/../../../preheat/pods/."),
    "mounted nearby by a detour": mounted(name="mine", mountPath="/preheat/x/../../preheat2/.."),
    "another variable": shaped(container={"env": [{"name": "PREHEAT_BUNDLE", "value": "/mine"}]}),
    "another uid": shaped(container={"env": [{"name": "PREHEAT_POD_UID", "value": "7"}]}),
    "PYTHONPATH from elsewhere": shaped(container={"env": [{"name": "PYTHONPATH", "valueFrom": KEY}]}),
    "an unknown container": shaped(annotations={"preheat.dev/containers": " train , worker"}),
    "no container": shaped(annotations={"preheat.dev/containers": ""}),
    "an unknown mode": shaped(annotations={"preheat.dev/shim": "false"}),
    "Windows": shaped(os={"name": "windows"}),
    "Windows by node": shaped(nodeSelector={"kubernetes.io/os": "windows"}),
}


def by_webhook(place: Place, pod: Object, pipeline: str) -> Object | str:
    """The pod, or why the webhook's function refuses it."""
    try:
        return comparable(place.created(place.injected(place.created(pod), pipeline)))
    except CheckpointError as refused:
        return str(refused)


def by_policy(place: Place, pod: Object, pipeline: str) -> Object | str:
    """The pod, or why the policy refuses it."""
    try:
        return comparable(place.created(pod, pipeline))
    except ApiError as refused:
        return str(refused).partition(f"CheckpointPipeline {place.namespace}/{pipeline}: ")[2] or str(refused)


def refusal(place: Place, pod: Object, pipeline: str) -> str:
    """Why the API server refuses the pod; empty: it does not."""
    try:
        place.created(pod, pipeline)
    except ApiError as refused:
        return str(refused)
    return ""


@pytest.mark.parametrize("pipeline", ["full", "bounded"])
@pytest.mark.parametrize("shape", SHAPES)
def test_odd_pods_become_the_same_or_are_refused_in_the_same_words(place: Place, shape: str, pipeline: str) -> None:
    assert by_policy(place, SHAPES[shape], pipeline) == by_webhook(place, SHAPES[shape], pipeline)


VOLUMES = [{"name": name, "emptyDir": {}} for name in ("output", "other")]


def saving(*mounts: list[Object]) -> Object:
    containers = [{"name": f"c{number}", "image": "i", "volumeMounts": each} for number, each in enumerate(mounts)]
    return shaped(containers=containers, volumes=VOLUMES)


OUTPUT = {"name": "output", "mountPath": "/output/"}
SAVING = {
    "nowhere": saving([]),
    "in one of two containers": saving([OUTPUT], [{**OUTPUT, "mountPath": "/out"}]),
    "on the same volume": saving([OUTPUT], [OUTPUT, {"name": "other", "mountPath": "/output/exp-8"}]),
    "on the innermost volume": saving([OUTPUT, {"name": "other", "mountPath": "/output/exp-7", "subPath": "a"}]),
    "at one path, written in two ways": saving([OUTPUT], [{**OUTPUT, "mountPath": "//data/../output"}]),
    "on two volumes": saving([OUTPUT], [{**OUTPUT, "name": "other"}]),
    "in two parts of a volume": saving([OUTPUT], [{**OUTPUT, "subPath": "a"}]),
    "everywhere": saving([{**OUTPUT, "mountPath": "/"}]),
    "wherever a variable says": saving([{**OUTPUT, "subPathExpr": "$(POD)"}]),
}


@pytest.mark.parametrize("where", SAVING)
def test_a_pod_that_saves_somewhere_is_resumed_in_the_same_way(place: Place, where: str) -> None:
    assert by_policy(place, SAVING[where], "resuming") == by_webhook(place, SAVING[where], "resuming")


A = {"name": "output", "mountPath": "/a"}
UPLOAD = {"name": "preheat-upload", "image": "u"}
EXACT = {"resources": {"limits": {"cpu": "2", "memory": "3Gi"}}}
TOKEN = {"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": "/a/token"}
SENDERS = {
    "nowhere": saving([{**A, "mountPath": "/ab"}]),
    "on the innermost volume": saving([A, {"name": "other", "mountPath": "//a/x/../exp-7", "subPath": "s"}]),
    "in the first that has it": saving([], [A], [{**A, "name": "other"}]),
    "in one that gets no checkpoint": {
        **saving([], [A], []),
        "metadata": {"annotations": {"preheat.dev/containers": "c0,c2"}},
    },
    "in one that gets the checkpoint": {
        **saving([A], [{**A, "name": "other"}]),
        "metadata": {"annotations": {"preheat.dev/containers": "c1"}},
    },
    "everywhere": saving([{**A, "mountPath": "/"}]),
    "wherever a variable says": saving([{**A, "subPathExpr": "$(POD)"}]),
    "in a Guaranteed pod": shaped(
        container={**EXACT, "volumeMounts": [A]}, initContainers=[{"name": "i", "image": "i", **EXACT}], volumes=VOLUMES
    ),
    "in a pod that counts as a whole": shaped(**EXACT, container={"volumeMounts": [A]}, volumes=VOLUMES),
    "in a BestEffort pod with much time": shaped(
        container={"volumeMounts": [A]}, volumes=VOLUMES, terminationGracePeriodSeconds=900
    ),
    "in one with an identity": shaped(container={"env": [TOKEN], "volumeMounts": [A]}, volumes=VOLUMES),
    "in one of a user": shaped(
        container={"volumeMounts": [A], "securityContext": {"runAsUser": 7, "runAsGroup": 8}}, volumes=VOLUMES
    ),
    "beside another upload": shaped(container={"volumeMounts": [A]}, volumes=VOLUMES, initContainers=[UPLOAD]),
    "beside a container of the upload's name": shaped(containers=[{**UPLOAD, "volumeMounts": [A]}], volumes=VOLUMES),
    "in one of a crowd": shaped(
        containers=[*CROWD, {"name": "last", "image": "i", "volumeMounts": [A]}],
        initContainers=[{**each, "name": f"i{each['name']}"} for each in CROWD[:20]],
        volumes=VOLUMES,
    ),
}


@pytest.mark.parametrize("where", SENDERS)
def test_what_a_pod_saves_is_sent_in_the_same_way(place: Place, where: str) -> None:
    assert by_policy(place, SENDERS[where], "sending") == by_webhook(place, SENDERS[where], "sending")


def acceptable(pod: Object) -> Object:
    """The pod with what an API server demands of it."""
    pod, names = copy.deepcopy(pod), {"serviceAccountName": "default", "automountServiceAccountToken": False}
    pod["metadata"]["annotations"] = {}
    spec = {**pod["spec"], **names, "securityContext": pod["spec"].get("securityContext") or {}}
    spec.pop("unknown/field~of the future", None)
    containers = [*spec["containers"], *(spec.get("initContainers") or [])]
    for place, container in enumerate(containers):
        mounts = {
            each["mountPath"]: {**each, "name": f"v{each['name']}v"} for each in container.get("volumeMounts") or []
        }
        container.update(name=f"c{place}", volumeMounts=list(mounts.values()))
        container["env"] = [_acceptable(entry) for entry in container.get("env") or []]
        if any("nvidia.com/gpu" in amounts for amounts in container["resources"].values()):
            container["resources"].setdefault("limits", {})["nvidia.com/gpu"] = "1"
    used = {mount["name"] for container in containers for mount in container["volumeMounts"]}
    return {**pod, "spec": {**spec, "volumes": [{"name": name, "emptyDir": {}} for name in sorted(used)]}}


def _acceptable(entry: Object) -> Object:
    if "valueFrom" in entry:
        return {"name": entry["name"], "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    return entry


@given(any_pod, st.sampled_from(["one-container", "sending"]))
@settings(max_examples=60)
def test_the_policy_does_with_any_pod_what_the_webhook_does(place: Place, pod: Object, pipeline: str) -> None:
    pod = acceptable(pod)
    assert by_policy(place, pod, pipeline) == by_webhook(place, pod, pipeline)


STORAGE = {"limits": {"ephemeral-storage": "500Mi", "memory": "63Mi"}}
WARNED = {
    "one-container": [
        shaped(container={"envFrom": [{"configMapRef": {"name": "m"}}]}),
        shaped(container={"resources": STORAGE}),
        shaped(container={"resources": {"limits": {"ephemeral-storage": "2Gi", "memory": "64Mi"}}}),
        shaped(container={"resources": {}}, initContainers=[{**UPLOAD, "resources": STORAGE}]),
    ],
    "sending": [
        shaped(container={"volumeMounts": [A]}, volumes=VOLUMES),
        shaped(container={"volumeMounts": [A]}, volumes=VOLUMES, terminationGracePeriodSeconds=120),
    ],
}


@pytest.mark.parametrize("pipeline", WARNED)
def test_what_the_webhook_warns_of_is_warned_of(place: Place, pipeline: str) -> None:
    pin, said = source_check.pin_of(place.resource(pipeline)), []
    for pod in WARNED[pipeline]:
        expected = cautions(place.injected(place.created(pod), pipeline), pin)
        place.created(pod, pipeline)
        assert [_without_sizes(each) for each in place.warnings] == [_without_sizes(each) for each in expected]
        said.append(len(expected))
    assert said == {"one-container": [1, 2, 0, 2], "sending": [1, 0]}[pipeline]


def _without_sizes(said: str) -> str:
    """A warning as its author wrote it; a policy writes sizes in another unit."""
    return re.sub(r"[0-9.]+ [KMG]iB", "", said.partition("-warn': ")[2].rstrip('"') or said)


def test_a_label_that_names_no_pipeline_is_refused_with_the_way_to_see_which_there_are(place: Place) -> None:
    with pytest.raises(
        ApiError, match=rf"no CheckpointPipeline 'finetuen'.*get checkpointpipelines -n {place.namespace}"
    ):
        place.created(shaped(), "finetuen")


def test_a_spec_that_the_controller_has_not_seen_is_not_used(place: Place) -> None:
    place.pipeline("new", FULL)
    wait_until("the API server knows the pipeline", lambda: "not seen it" in refusal(place, shaped(), "new"), 10)
    place.cluster.kubectl(
        "-n", place.namespace, "patch", "ckpt", "full", "--type=merge", "-p", '{"spec":{"maxRetries":1}}'
    )
    wait_until("the old recipe is not used", lambda: "not seen it" in refusal(place, shaped(), "full"), 10)


def test_a_pipeline_that_cannot_be_used_says_why(place: Place) -> None:
    layers = [{"freezing": {"layers": ["x" * 500] * 256}}]
    place.pipeline("huge", {**FULL, "stages": [*FULL["stages"], *layers]})
    place.prepare("huge")
    said = rf"{place.namespace}/huge cannot be used: the spec of [0-9,]+ bytes does not fit"
    wait_until("the reason is known", lambda: re.search(said, refusal(place, shaped(), "huge")), 10)


def test_who_may_write_the_status_may_not_write_what_goes_into_pods(place: Place) -> None:
    rule = ("--verb=get,update,patch", "--resource=checkpointpipelines.preheat.dev/status")
    kubectl = ("--namespace", place.namespace)
    place.cluster.kubectl(*kubectl, "create", "role", "statuses", *rule)
    place.cluster.kubectl(*kubectl, "create", "rolebinding", "statuses", "--role=statuses", "--user=ann")
    change = {"status": {"injection": {"environment": [{"name": "LD_PRELOAD", "value": "/preheat/evil.so"}]}}}
    words = (*kubectl, "patch", "ckpt", "bounded", "--subresource=status", "--type=merge", "--as=ann", "-p")
    refused = place.cluster.kubectl(*words, json.dumps(change), check=False)
    assert "written by Preheat's controller alone" in refused
    assert "patched" in place.cluster.kubectl(*words, json.dumps({"status": {"pods": {"matched": 1}}}))
