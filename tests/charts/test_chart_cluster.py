"""The chart against the real API server: strict dry runs, refusals of the policies, upgrades that keep caBundle."""

import base64
import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts.releases import CHART, FULL_NAME, RELEASE
from rendered_yaml import documents

from charts import kinds, releases
from cluster.binaries import KUBERNETES, NEWEST
from preheat_operator import source_check
from preheat_operator.api import Pipeline
from preheat_operator.settings import Settings

pytestmark = pytest.mark.cluster

# MutatingAdmissionPolicy is v1 since Kubernetes 1.36.
_TOO_NEW = () if KUBERNETES is NEWEST else ("policy-values",)
VALUE_SETS = [path for path in sorted((CHART / "ci").glob("*-values.yaml")) if path.stem not in _TOO_NEW]
QUICK = ("--set", "crds.install=false,webhook.timeoutSeconds=1,policy.requireUpload=true")
CA = base64.b64encode(b"not a certificate, but kept as it is").decode()


@pytest.fixture(scope="module")
def foreign_kinds(cluster) -> Iterator[None]:
    with kinds.known(cluster):
        yield


@pytest.mark.usefixtures("foreign_kinds")
@pytest.mark.parametrize("values", VALUE_SETS, ids=lambda path: path.stem.removesuffix("-values"))
def test_the_api_server_accepts_every_document(cluster, namespace: str, values: Path) -> None:
    text = cluster.helm("template", "dry-run", CHART, "--namespace", namespace, "--values", values)
    found = documents(text)
    stream = "\n---\n".join(json.dumps(document) for document in found)
    words = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-")
    answered = cluster.kubectl(*words, input=stream)
    assert len(answered.splitlines()) == len(found)
    assert "warning" not in answered.lower()


@pytest.fixture(scope="module")
def release(cluster) -> Iterator[str]:
    """The chart with images that cannot be pulled: admission as it is while the webhook is down."""
    with releases.released(cluster, "chart-test-system", *QUICK) as namespace:
        yield namespace


def pod(name: str, *, labelled: bool = True, loader: bool = False) -> str:
    spec: dict[str, Any] = {"nodeSelector": {"no": "node"}, "containers": [{"name": "train", "image": "t"}]}
    if loader:
        spec["initContainers"] = [{"name": "preheat-loader", "image": "l"}]
    labels = {"preheat.dev/pipeline": "finetune"} if labelled else {}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec})


def create(cluster, namespace: str, manifest: str, *words: str) -> str:
    return cluster.kubectl("--namespace", namespace, "create", "-f", "-", *words, input=manifest, check=False)


def eventually_refused(cluster, namespace: str, manifest: str, text: str, *words: str) -> str:
    """Admission learns of new configurations within a second or so."""
    deadline = time.monotonic() + 30
    while text not in (answer := create(cluster, namespace, manifest, "--dry-run=server", *words)):
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)
    return answer


def test_while_the_webhook_is_down_labelled_pods_are_refused_and_others_are_not(cluster, release, namespace) -> None:
    eventually_refused(cluster, namespace, pod("a"), "pods.preheat.dev")
    assert "created" in create(cluster, namespace, pod("plain", labelled=False))
    assert "created" in create(cluster, release, pod("own", loader=False), "--dry-run=server")


def assert_its_upload_is_required(cluster, namespace: str) -> None:
    """Of a pod that has its loader, and lost its upload to another webhook or to a Preheat that knew none."""
    stages = [{"http": {"url": "https://models.example.org/a.ckpt"}}, {"weightsOnly": {}}]
    upload = {"path": "/output", "to": {"http": {"url": "https://files.example.org/a/"}}}
    kind = {"apiVersion": "preheat.dev/v1alpha1", "kind": "CheckpointPipeline"}
    for name, more in (("finetune", {"upload": upload}), ("other", {})):
        resource = {**kind, "metadata": {"name": name}, "spec": {"stages": stages, **more}}
        create(cluster, namespace, json.dumps(resource))
    without = json.loads(pod("d", loader=True))
    sent = copy.deepcopy(without)
    sent["spec"]["initContainers"].append({"name": "preheat-upload", "image": "l", "restartPolicy": "Always"})
    answer = eventually_refused(cluster, namespace, json.dumps(without), "no container preheat-upload was added")
    assert f"CheckpointPipeline {namespace}/finetune uploads" in answer
    assert "created" in create(cluster, namespace, json.dumps(sent), "--dry-run=server")
    without["metadata"]["labels"] = {"preheat.dev/pipeline": "other"}
    assert "created" in create(cluster, namespace, json.dumps(without), "--dry-run=server")


def test_a_pod_without_loader_is_refused_even_without_the_webhook(cluster, release, namespace) -> None:
    cluster.kubectl("delete", "mutatingwebhookconfiguration", FULL_NAME)
    try:
        answer = eventually_refused(cluster, namespace, pod("a"), "no loader was added")
        assert "preheat.dev/pipeline=finetune" in answer
        assert "created" in create(cluster, namespace, pod("b", loader=True), "--dry-run=server")
        assert "created" in create(cluster, namespace, pod("c", labelled=False), "--dry-run=server")
        assert_its_upload_is_required(cluster, namespace)
    finally:
        cluster.helm("upgrade", RELEASE, CHART, "--namespace", release, *QUICK)
    assert FULL_NAME in cluster.kubectl("get", "mutatingwebhookconfigurations")


def test_who_may_not_create_pods_may_not_write_a_pipeline(cluster, release, namespace) -> None:
    stages = [{"http": {"url": "https://models.example.org/a.ckpt"}}, {"weightsOnly": {}}]
    meta = {"name": "finetune", "namespace": namespace}
    resource = {"apiVersion": "preheat.dev/v1alpha1", "kind": "CheckpointPipeline", "metadata": meta}
    manifest = json.dumps({**resource, "spec": {"stages": stages}})
    kubectl = ("--namespace", namespace)
    verbs = ("--verb=get,create,update,patch", "--resource=checkpointpipelines.preheat.dev")
    cluster.kubectl(*kubectl, "create", "role", "pipelines", *verbs)
    cluster.kubectl(*kubectl, "create", "rolebinding", "pipelines", "--role=pipelines", "--user=ann")
    answer = eventually_refused(cluster, namespace, manifest, "ann may not create pods", "--as=ann")
    assert namespace in answer
    cluster.kubectl(*kubectl, "create", "role", "pods", "--verb=create", "--resource=pods")
    cluster.kubectl(*kubectl, "create", "rolebinding", "pods", "--role=pods", "--user=ann")
    assert "created" in create(cluster, namespace, manifest, "--as=ann")
    cluster.kubectl(*kubectl, "delete", "rolebinding", "pods")
    # What the policy is about is the spec: a label is not.
    assert "labeled" in cluster.kubectl(*kubectl, "label", "ckpt", "finetune", "a=b", "--as=ann")
    patch = json.dumps({"spec": {"maxRetries": 5}})
    refused = cluster.kubectl(
        *kubectl, "patch", "ckpt", "finetune", "--type=merge", "-p", patch, "--as=ann", check=False
    )
    assert "ann may not create pods" in refused


def test_the_policy_that_the_docs_show_keeps_an_account_for_some(cluster, release, namespace) -> None:
    page = (CHART.parents[1] / "docs" / "security.md").read_text()
    policy = yaml.safe_load(page.partition("### A ServiceAccount only for some\n\n```yaml\n")[2].partition("```")[0])
    name = policy["metadata"]["name"]
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    bound = {"policyName": name, "validationActions": ["Deny"], "matchResources": here}
    binding = {**policy, "kind": "ValidatingAdmissionPolicyBinding", "spec": bound}
    stages = [{"http": {"url": "https://models.example.org/a.ckpt"}}, {"weightsOnly": {}}]
    resource = {"apiVersion": "preheat.dev/v1alpha1", "kind": "CheckpointPipeline", "metadata": {"name": "finetune"}}
    manifest = json.dumps({**resource, "spec": {"serviceAccountName": "trainer", "stages": stages}})
    kubectl = ("--namespace", namespace)
    cluster.kubectl(*kubectl, "create", "rolebinding", "editor", "--clusterrole=edit", "--user=ann")
    cluster.kubectl("create", "-f", "-", input=f"{json.dumps(policy)}\n---\n{json.dumps(binding)}")
    try:
        eventually_refused(cluster, namespace, manifest, "ann may not use ServiceAccount trainer", "--as=ann")
        rules = [{"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["trainer"], "verbs": ["use"]}]
        kind = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
        }  # kubectl's own verb for it knows no `use`
        role = {**kind, "metadata": {"name": "trainer"}, "rules": rules}
        cluster.kubectl(*kubectl, "create", "-f", "-", input=json.dumps(role))
        cluster.kubectl(*kubectl, "create", "rolebinding", "trainer", "--role=trainer", "--user=ann")
        assert "created" in create(cluster, namespace, manifest, "--dry-run=server", "--as=ann")
    finally:
        cluster.kubectl("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", name)


def ca_bundle(cluster) -> str:
    found = cluster.kubectl("get", "mutatingwebhookconfiguration", FULL_NAME, "-o", "json")
    return json.loads(found)["webhooks"][0]["clientConfig"].get("caBundle", "")


def test_an_upgrade_leaves_the_authority_that_the_webhook_wrote(cluster, release) -> None:
    published = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": FULL_NAME},
        "webhooks": [{"name": "pods.preheat.dev", "clientConfig": {"caBundle": CA}}],
    }
    words = ("apply", "--server-side", "--field-manager=preheat-webhook", "-f", "-")
    user = f"system:serviceaccount:{release}:{FULL_NAME}-webhook"
    cluster.kubectl(*words, f"--as={user}", input=json.dumps(published))
    assert ca_bundle(cluster) == CA
    cluster.helm("upgrade", RELEASE, CHART, "--namespace", release, *QUICK, "--set", "webhook.timeoutSeconds=3")
    assert ca_bundle(cluster) == CA
    found = json.loads(cluster.kubectl("get", "mutatingwebhookconfiguration", FULL_NAME, "-o", "json"))
    assert found["webhooks"][0]["timeoutSeconds"] == 3
    cluster.helm(
        "upgrade", RELEASE, CHART, "--namespace", release, "--set", "crds.install=false,webhook.timeoutSeconds=1"
    )


def test_the_controller_may_make_checks_and_no_other_job(cluster, release, namespace) -> None:
    user = f"--as=system:serviceaccount:{release}:{FULL_NAME}-controller"
    image = _loader_image(cluster, release)
    metadata = {"name": "finetune", "namespace": namespace, "uid": "p-1", "generation": 1}
    stages = [{"http": {"url": "https://models.example.org/a.ckpt", "secretRef": "s"}}, {"weightsOnly": {}}]
    pipeline = Pipeline.parse({"metadata": metadata, "spec": {"stages": stages}})
    job = source_check.wanted_job(pipeline, {}, Settings(release, image))
    refused = "may only make Jobs that check"
    eventually_refused(cluster, namespace, json.dumps(_changed(job, {"image": "busybox"})), refused, user)
    hardened = _changed(job, {})["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    wrong = [
        _changed(job, {"command": ["sh", "-c", "env"]}),
        _changed(job, {"args": ["-c", "x"]}),
        _changed(job, {"workingDir": "/tmp"}),
        _changed(job, {"lifecycle": {"postStart": {"exec": {"command": ["env"]}}}}),
        # Python opens a browser for this one, which is a command line.
        _changed(job, {"env": [{"name": "PYTHONWARNINGS", "value": "all:0:antigravity.x:0:0"}]}),
        _changed(job, {"envFrom": [{"secretRef": {"name": "s"}}]}),
        _changed(job, {"securityContext": {**hardened, "runAsNonRoot": False}}),
        _changed(job, {"securityContext": {**hardened, "capabilities": {"add": ["NET_RAW"]}}}),
        _changed(job, {"securityContext": {"privileged": True}}),
        _changed(job, {}, {"volumes": [{"name": "s", "secret": {"secretName": "s"}}]}),
        _changed(job, {}, {"automountServiceAccountToken": True}),
        _changed(job, {}, {"nodeName": "control-plane"}),
        _changed(job, {}, {"hostIPC": True}),
    ]
    every = json.dumps({"apiVersion": "v1", "kind": "List", "items": wrong})
    answer = create(cluster, namespace, every, "--dry-run=server", user)
    assert (answer.count(refused), "created" in answer) == (len(wrong), False), answer
    assert "created" in create(cluster, namespace, json.dumps(job), "--dry-run=server", user)
    assert "created" in create(cluster, namespace, json.dumps(_changed(job, {"image": "b"})), "--dry-run=server")


def _loader_image(cluster, release: str) -> str:
    found = json.loads(cluster.kubectl("--namespace", release, "get", "deployments", "-o", "json"))["items"]
    [container] = found[0]["spec"]["template"]["spec"]["containers"]
    return str(next(each["value"] for each in container["env"] if each["name"] == "PREHEAT_LOADER_IMAGE"))


def _changed(job: dict[str, Any], container: dict[str, Any], pod: dict[str, Any] | None = None) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(job))
    spec = copied["spec"]["template"]["spec"]
    spec["containers"][0] |= container
    spec |= pod or {}
    return copied


@pytest.mark.parametrize(
    ("account", "verb", "resource", "allowed"),
    [
        ("webhook", "list", "checkpointpipelines.preheat.dev", True),
        ("webhook", "update", f"secrets/{FULL_NAME}-webhook-certificate", True),
        ("webhook", "get", "secrets/another", False),
        ("webhook", "list", "secrets", False),
        ("webhook", "patch", f"mutatingwebhookconfigurations.admissionregistration.k8s.io/{FULL_NAME}", True),
        ("webhook", "patch", "mutatingwebhookconfigurations.admissionregistration.k8s.io/another", False),
        ("webhook", "get", "pods", False),
        ("controller", "update", "checkpointpipelines.preheat.dev", False),
        ("controller", "get", f"secrets/{FULL_NAME}-webhook-certificate", False),
        ("controller", "get", "pods", False),
        ("controller", "list", "pods", True),
        ("controller", "list", "nodes", True),
        ("controller", "create", "jobs.batch", True),
        ("controller", "delete", "jobs.batch", False),
    ],
)
def test_the_accounts_may_do_this_and_no_more(cluster, release, account, verb, resource, allowed) -> None:
    user = f"system:serviceaccount:{release}:{FULL_NAME}-{account}"
    answer = cluster.kubectl("auth", "can-i", verb, resource, "--namespace", release, f"--as={user}", check=False)
    assert answer.split()[-1] == ("yes" if allowed else "no")
    elsewhere = cluster.kubectl("auth", "can-i", "get", "secrets", "-A", f"--as={user}", check=False)
    assert elsewhere.split()[-1] == "no"


def test_the_controller_can_do_its_work_with_its_own_rights(cluster, release, namespace, tmp_path) -> None:
    """The process runs with a token of the chart's account: a missing right would show here."""
    config = releases.kubeconfig(cluster, release, f"{FULL_NAME}-controller", tmp_path / "kubeconfig")
    code = (
        "import asyncio, sys\n"
        "from lightkube import AsyncClient\n"
        "from preheat_operator.controller import Controller\n"
        "from preheat_operator.settings import Settings\n"
        "async def main():\n"
        "    settings = Settings(sys.argv[2], sys.argv[3])\n"
        "    await Controller(AsyncClient(field_manager='test'), settings).refresh((sys.argv[1], 'finetune'))\n"
        "asyncio.run(main())\n"
    )
    stages = [{"http": {"url": "https://models.example.org/a.ckpt"}}, {"weightsOnly": {}}]
    meta = {"name": "finetune", "namespace": namespace}
    resource = {"apiVersion": "preheat.dev/v1alpha1", "kind": "CheckpointPipeline", "metadata": meta}
    cluster.kubectl("create", "-f", "-", input=json.dumps({**resource, "spec": {"stages": stages}}))
    cluster.kubectl("--namespace", namespace, "create", "-f", "-", input=pod("plain", labelled=False))
    cluster.kubectl("--namespace", namespace, "label", "pod", "plain", "preheat.dev/pipeline=finetune")
    environment = {**os.environ, "KUBECONFIG": str(config)}
    command = [sys.executable, "-c", code, namespace, release, _loader_image(cluster, release)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(cluster.kubectl("--namespace", namespace, "get", "ckpt", "finetune", "-o", "json"))
    assert found["status"]["pods"]["missed"] == 1
    [check] = json.loads(cluster.kubectl("--namespace", namespace, "get", "jobs", "-o", "json"))["items"]
    assert check["metadata"]["labels"]["preheat.dev/check"] == "finetune"
    assert "NotInjected" in cluster.kubectl("--namespace", namespace, "get", "events")
