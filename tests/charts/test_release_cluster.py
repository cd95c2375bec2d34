"""A release whose webhook runs on this machine: its certificate three ways, GitOps, upgrade and uninstall.

cert-manager's part, Secret and caBundle, is played.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from charts.load import Load
from charts.releases import ADDRESS, CHART, FULL_NAME, RELEASE, WebhookProcess, until
from issuer import Issuer
from lightkube import Client
from lightkube.config.kubeconfig import KubeConfig
from rendered_yaml import documents

from charts import releases
from cluster.binaries import KUBERNETES, NEWEST

pytestmark = pytest.mark.cluster

SYSTEM = "chart-test-running"
CRD = "customresourcedefinition/checkpointpipelines.preheat.dev"
HOST = f"{ADDRESS}.{SYSTEM}.svc"
QUICK = ("--set", "webhook.timeoutSeconds=2")
VALUES = (*QUICK, "--set", "crds.install=false")


@pytest.fixture(scope="module")
def release(cluster) -> Iterator[str]:
    with releases.released(cluster, SYSTEM, *VALUES) as namespace:
        yield namespace


@pytest.fixture
def load(cluster, release, namespace) -> Iterator[Load]:
    """Of pods of a pipeline."""
    if KUBERNETES is not NEWEST:
        pytest.skip("this API server looks for a webhook in Endpoints, where only pods can stand")
    resource = {
        "apiVersion": "preheat.dev/v1alpha1",
        "kind": "CheckpointPipeline",
        "metadata": {"name": "finetune", "namespace": namespace},
        "spec": {"stages": [{"s3": {"bucket": "b", "key": "k"}}, {"weightsOnly": {}}]},
    }
    cluster.kubectl("create", "-f", "-", input=json.dumps(resource))
    with Client(KubeConfig.from_file(cluster.kubeconfig).get()) as client:
        yield Load(client, namespace)


@contextmanager
def replicas(cluster, tmp_path: Path, number: int = 2) -> Iterator[list[WebhookProcess]]:
    """Webhooks behind the release's Service."""
    both = [WebhookProcess(cluster, SYSTEM, tmp_path) for _ in range(number)]
    manifests = releases.endpoints(SYSTEM, cluster, *(each.port for each in both))
    cluster.kubectl("apply", "-f", "-", input=manifests)
    try:
        yield both
    finally:
        cluster.kubectl("delete", "-f", "-", input=manifests)
        for each in both:
            each.stop()


def hold(cluster, name: str, held: dict[str, bytes]) -> None:
    data = {key: base64.b64encode(value).decode() for key, value in held.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": SYSTEM}, "data": data}
    words = ("apply", "--server-side", "--force-conflicts", "--field-manager=cert-manager", "-f", "-")
    cluster.kubectl(*words, input=json.dumps({**secret, "type": "kubernetes.io/tls"}))


def inject_authority(cluster, bundle: bytes) -> None:
    """What cert-manager's cainjector does: an update of the configuration."""
    patch = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": base64.b64encode(bundle).decode()}]
    cluster.kubectl("patch", "mutatingwebhookconfiguration", FULL_NAME, "--type=json", "-p", json.dumps(patch))


def upgrade(cluster, *values: str) -> None:
    cluster.helm("upgrade", RELEASE, CHART, "--namespace", SYSTEM, *VALUES, *values)


def test_our_own_certificate_is_renewed_without_one_failed_admission(cluster, load, tmp_path) -> None:
    name = f"{ADDRESS}-certificate"
    with replicas(cluster, tmp_path) as both:
        for each in both:
            each.says("ok")
        load.gets_through()
        with load.running():
            for lost in ("tls.crt", "ca.key"):  # a certificate near its end, then an authority
                before = [each.shown() for each in both]
                patch = json.dumps({"data": {lost: ""}})
                cluster.kubectl("--namespace", SYSTEM, "patch", "secret", name, "-p", patch)
                until(lambda: all(old != each.shown() for old, each in zip(before, both, strict=True)), "not renewed")  # noqa: B023
                load.goes_on()
    assert set(load.answers) == {"injected"}
    assert len(load.answers) > 40


def test_cert_managers_certificate_is_served_when_it_is_trusted(cluster, load, tmp_path) -> None:
    first, second, secret = Issuer(), Issuer(), f"{ADDRESS}-tls"
    # Its own kinds are not part of a bare cluster: the rest of the release is applied without them.
    values = ("--set", "certificates.certManager.enabled=true")
    text = cluster.helm("template", RELEASE, CHART, "--namespace", SYSTEM, *VALUES, *values)
    rest = [d for d in documents(text) if not d["apiVersion"].startswith("cert-manager.io")]
    words = ("apply", "--server-side", "--force-conflicts", "--field-manager=helm", "-f", "-")
    cluster.kubectl(*words, input=yaml.safe_dump_all(rest))
    with replicas(cluster, tmp_path, 1) as [webhook]:
        missing = f"Secret {SYSTEM}/{secret} is not there yet"
        webhook.says(missing)
        hold(cluster, secret, first.issue(HOST))
        inject_authority(cluster, second.pem)
        webhook.says("not issued by an authority")
        inject_authority(cluster, first.pem)
        webhook.says("ok")
        load.gets_through()
        with load.running():
            hold(cluster, secret, renewal := first.issue(HOST))
            until(lambda: webhook.shown() == renewal["tls.crt"], "not renewed")
            load.goes_on()
            inject_authority(cluster, first.pem + second.pem)
            hold(cluster, secret, other := second.issue(HOST))
            until(lambda: webhook.shown() == other["tls.crt"], "not renewed")
            load.goes_on()
        inject_authority(cluster, Issuer().pem)
        webhook.says("not issued by an authority")
    assert set(load.answers) == {"injected"}


def test_a_given_certificate_is_trusted_by_the_bundle_that_was_given_with_it(cluster, load, tmp_path) -> None:
    issuer, file = Issuer(), tmp_path / "ca.pem"
    file.write_bytes(issuer.pem)
    hold(cluster, "kept-by-us", issuer.issue(f"*.{SYSTEM}.svc"))
    upgrade(cluster, "--set", "certificates.existingSecret=kept-by-us", "--set-file", f"certificates.caBundle={file}")
    with replicas(cluster, tmp_path, 1) as [webhook]:
        webhook.says("ok")
        load.gets_through()


def rendered(cluster, *values: str) -> str:
    """What a GitOps controller applies."""
    return str(
        cluster.helm("template", RELEASE, CHART, "--namespace", SYSTEM, "--set", "webhook.timeoutSeconds=2", *values)
    )


def ca_bundle(cluster) -> str:
    where = "{.webhooks[0].clientConfig.caBundle}"
    return str(cluster.kubectl("get", "mutatingwebhookconfiguration", FULL_NAME, "-o", f"jsonpath={where}"))


def writes(cluster, manifests: str, manager: str) -> dict[tuple[str, str], tuple[str, list[str]]]:
    """When each object was changed, as far as others than its own controllers did, and when by this manager."""
    found = cluster.kubectl("get", "-f", "-", "-o", "json", "--show-managed-fields", input=manifests)
    changed = {}
    for each in json.loads(found)["items"]:
        metadata = each["metadata"]
        times = [entry.get("time", "") for entry in metadata["managedFields"] if entry["manager"] == manager]
        version = f"generation {metadata.get('generation')}" if "status" in each else metadata["resourceVersion"]
        changed[each["kind"], metadata["name"]] = (version, times)
    return changed


def test_a_second_gitops_sync_changes_nothing_while_the_webhook_runs(cluster, release, tmp_path) -> None:
    upgrade(cluster)
    manager, manifests = "argocd-controller", rendered(cluster)
    words = ("--server-side", "--force-conflicts", f"--field-manager={manager}", "-f", "-")
    cluster.kubectl("apply", *words, input=manifests)
    with replicas(cluster, tmp_path, 1) as [webhook]:
        webhook.says("ok")
        bundle, before = ca_bundle(cluster), writes(cluster, manifests, manager)
        assert bundle
        assert ("CustomResourceDefinition", "checkpointpipelines.preheat.dev") in before
        cluster.kubectl("apply", *words, input=manifests)
        assert cluster.kubectl("diff", *words, input=manifests) == ""
        assert writes(cluster, manifests, manager) == before
        # Who applies on the client's side compares with what was applied before, and changes nothing either.
        cluster.kubectl("apply", "-f", "-", input=manifests)
        before = writes(cluster, manifests, "kubectl-client-side-apply")
        cluster.kubectl("apply", "-f", "-", input=manifests)
        assert writes(cluster, manifests, "kubectl-client-side-apply") == before
        assert ca_bundle(cluster) == bundle


@pytest.fixture
def earlier_chart(tmp_path) -> Path:
    """This chart as if it were the one before: another version, and a CRD with a short name that is no more."""
    chart = shutil.copytree(CHART, tmp_path / "earlier")
    for file, now, before in (
        ("Chart.yaml", "\nversion: ", "\nversion: 0.0.1 # before "),
        ("templates/crd.yaml", "    - ckpt\n", "    - ckpt\n    - bygone\n"),
    ):
        text = (chart / file).read_text()
        assert now in text
        (chart / file).write_text(text.replace(now, before))
    return Path(chart)


def test_an_upgrade_and_an_uninstall_leave_what_runs_alone(cluster, load, tmp_path, earlier_chart) -> None:
    helm = ("upgrade", RELEASE, "--namespace", SYSTEM, "--take-ownership", *QUICK)
    cluster.helm(*helm, earlier_chart)
    with replicas(cluster, tmp_path, 1) as [webhook]:
        webhook.says("ok")
        load.gets_through()
        trained = load.create_one()
        pipeline = ("--namespace", load.namespace, "get", "checkpointpipeline", "finetune", "-o", "json")
        before = json.loads(cluster.kubectl(*pipeline))["metadata"]
        assert "bygone" in cluster.kubectl("get", CRD, "-o", "jsonpath={.spec.names.shortNames}")
        with load.running():
            load.goes_on()
            cluster.helm(*helm, CHART)
            load.goes_on()
        assert set(load.answers) == {"injected"}
        assert "bygone" not in cluster.kubectl("get", CRD, "-o", "jsonpath={.spec.names.shortNames}")
    cluster.helm("uninstall", RELEASE, "--namespace", SYSTEM)
    # Nothing stands for the label any more: a pod that carries it is one like others.
    until(lambda: load.once() == "init containers []", "a labelled pod cannot be created")
    assert json.loads(cluster.kubectl(*pipeline))["metadata"] == before
    assert (
        cluster.kubectl("--namespace", load.namespace, "get", "pod", trained, "-o", "name").strip() == f"pod/{trained}"
    )
