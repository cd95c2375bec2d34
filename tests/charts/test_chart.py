"""The chart rendered for every value set of charts/preheat/ci: what it may hold, what it must not, what it refuses."""

import json
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from preheat.sources import SOURCES
from preheat_operator.loader_container import PROGRESS_PORT
from preheat_operator.upload_container import UPLOADS_PORT

CHART = Path(__file__).parents[2] / "charts" / "preheat"
VALUE_SETS = sorted((CHART / "ci").glob("*-values.yaml"))
SNAPSHOT = Path(__file__).parent / "rbac.json"
GOLDEN = Path(__file__).parent / "rendered"
Documents = list[dict[str, Any]]

every_value_set = pytest.mark.parametrize("values", VALUE_SETS, ids=lambda path: path.stem.removesuffix("-values"))


def of_kind(documents: Documents, kind: str) -> Documents:
    return [document for document in documents if document["kind"] == kind]


def named(documents: Documents, kind: str, part: str) -> dict[str, Any]:
    return next(d for d in of_kind(documents, kind) if part in d["metadata"]["name"])


def rules(documents: Documents) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for document in documents:
        for rule in document.get("rules", []) if document["kind"] in ("Role", "ClusterRole") else []:
            yield document["kind"], document["metadata"]["name"], rule


def images(documents: Documents) -> list[str]:
    return [d["spec"]["template"]["spec"]["containers"][0]["image"] for d in of_kind(documents, "Deployment")]


def environment(documents: Documents, component: str = "webhook") -> dict[str, str]:
    container = named(documents, "Deployment", component)["spec"]["template"]["spec"]["containers"][0]
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


@every_value_set
def test_helm_lint_has_no_objection(helm, values: Path) -> None:
    done = helm("lint", "--strict", CHART, "--values", values)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("values", ["default", "full", "policy"])
def test_what_is_rendered_is_what_was_reviewed(helm, values: str) -> None:
    """A change of the chart shows in its golden file; PREHEAT_UPDATE_GOLDEN=1 writes that anew."""
    # Files of their own: the definition and the dashboard.
    words = ("--namespace", "preheat-system", "--set", "crds.install=false,dashboard.enabled=false")
    text = helm("template", "preheat", CHART, *words, "--values", CHART / "ci" / f"{values}-values.yaml").stdout
    golden = GOLDEN / f"{values}.yaml"
    if os.environ.get("PREHEAT_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text(), f"review the change, then rewrite {golden.name} with PREHEAT_UPDATE_GOLDEN=1"


@every_value_set
def test_no_certificate_is_rendered(helm, values: Path) -> None:
    text = helm("template", "preheat", CHART, "--values", values, "--set", "crds.install=false").stdout
    assert "kind: Deployment" in text
    for trace in ("BEGIN CERTIFICATE", "PRIVATE KEY", "kind: Secret"):
        assert trace not in text
    assert ("caBundle" in text) == ("given" in values.name)  # what the values hold, and nothing made up


@every_value_set
def test_the_same_values_render_the_same_text(helm, values: Path) -> None:
    first, second = (helm("template", "preheat", CHART, "--values", values).stdout for _ in range(2))
    assert first == second


@every_value_set
def test_no_rule_reaches_secrets_beyond_the_operators_own(render, values: Path) -> None:
    for kind, name, rule in rules(render("--values", values)):
        assert "*" not in rule["verbs"] + rule["apiGroups"] + rule["resources"], name
        if "secrets" in rule["resources"]:
            assert kind == "Role", name
            own = ("-webhook-certificate", "-webhook-tls", "preheat-tls")
            assert rule["verbs"] == ["create"] or rule["resourceNames"][0].endswith(own)


def test_the_rights_are_the_reviewed_ones(render) -> None:
    found = [{"kind": kind, "name": name, "rule": rule} for kind, name, rule in rules(render())]
    reviewed = json.loads(SNAPSHOT.read_text())
    assert found == reviewed, f"review the change, then write this to {SNAPSHOT.name}:\n{json.dumps(found, indent=1)}"


@pytest.mark.parametrize(
    ("values", "secret"), [("cert-manager", "preheat-webhook-tls"), ("given-certificate", "preheat-tls")]
)
def test_with_a_certificate_of_somebody_else_the_webhook_may_only_read(render, values: str, secret: str) -> None:
    """Beside the reviewed rights: nothing is added, and all that writes is gone."""
    found = list(rules(render("--values", CHART / "ci" / f"{values}-values.yaml")))
    reviewed = [(each["kind"], each["name"], each["rule"]) for each in json.loads(SNAPSHOT.read_text())]
    assert [rule for rule in found if rule[1] != "preheat-webhook"] == [
        rule for rule in reviewed if rule[1] != "preheat-webhook"
    ]
    assert [rule for _, name, rule in found if name == "preheat-webhook"] == [
        {"apiGroups": ["preheat.dev"], "resources": ["checkpointpipelines"], "verbs": ["get", "list", "watch"]},
        {
            "apiGroups": ["admissionregistration.k8s.io"],
            "resources": ["mutatingwebhookconfigurations"],
            "resourceNames": ["preheat"],
            "verbs": ["get"],
        },
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret], "verbs": ["get"]},
    ]


def test_cert_manager_makes_what_the_webhook_reads_and_injects_it_where_it_looks(render) -> None:
    documents = render("--set", "certificates.certManager.enabled=true,certificates.annotations.a=b")
    serving = next(d for d in of_kind(documents, "Certificate") if not d["spec"].get("isCA"))
    settings = environment(documents)
    assert (settings["PREHEAT_CERTIFICATES"], settings["PREHEAT_SECRET_NAME"]) == (
        "given",
        serving["spec"]["secretName"],
    )
    address = f"{settings['PREHEAT_SERVICE_NAME']}.preheat-system.svc"
    assert serving["spec"]["dnsNames"] == [address, f"{address}.cluster.local"]
    annotations = of_kind(documents, "MutatingWebhookConfiguration")[0]["metadata"]["annotations"]
    assert annotations == {
        "a": "b",
        "cert-manager.io/inject-ca-from": f"preheat-system/{serving['metadata']['name']}",
    }
    issuers = {d["metadata"]["name"]: d["spec"] for d in of_kind(documents, "Issuer")}
    [authority] = [d for d in of_kind(documents, "Certificate") if d["spec"].get("isCA")]
    assert issuers[serving["spec"]["issuerRef"]["name"]] == {"ca": {"secretName": authority["spec"]["secretName"]}}
    assert issuers[authority["spec"]["issuerRef"]["name"]] == {"selfSigned": {}}


def test_an_issuer_that_is_there_is_used_instead_of_one_of_our_own(render) -> None:
    issuer = "certificates.certManager.issuerRef"
    documents = render(
        "--set", f"certificates.certManager.enabled=true,{issuer}.name=internal,{issuer}.kind=ClusterIssuer"
    )
    [certificate] = of_kind(documents, "Certificate")
    assert certificate["spec"]["issuerRef"] == {"kind": "ClusterIssuer", "name": "internal"}
    assert not of_kind(documents, "Issuer")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ("certificates.existingSecret=a", "name in caBundle the authority"),
        ("certificates.existingSecret=a,certificates.certManager.enabled=true", "choose one of"),
        ("certificates.caBundle=-----BEGIN CERTIFICATE-----", "belongs to a certificate in existingSecret"),
    ],
)
def test_a_certificate_that_nobody_could_trust_is_refused(helm, values: str, told: str) -> None:
    assert told in helm("template", "preheat", CHART, "--set", values).stderr


@every_value_set
def test_pods_are_restricted_and_read_only(render, values: Path) -> None:
    deployments = of_kind(render("--values", values), "Deployment")
    assert len(deployments) == (1 if values.stem == "policy-values" else 2)
    for deployment in deployments:
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["enableServiceLinks"] is False
        [container] = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"]
        assert container["livenessProbe"]
        assert container["readinessProbe"]


def test_only_the_two_processes_are_given_a_token(render) -> None:
    documents = render()
    accounts = of_kind(documents, "ServiceAccount")
    assert [account["automountServiceAccountToken"] for account in accounts] == [False] * 2
    pods = [deployment["spec"]["template"]["spec"] for deployment in of_kind(documents, "Deployment")]
    assert [pod["automountServiceAccountToken"] for pod in pods] == [True] * 2
    assert {pod["serviceAccountName"] for pod in pods} == {account["metadata"]["name"] for account in accounts}


def test_a_check_is_allowed_every_variable_that_it_may_be_given_and_no_other(render) -> None:
    documents = render("--set", "loader.environment.HTTPS_PROXY=http://proxy:3128")
    variables = named(documents, "ValidatingAdmissionPolicy", "limit-checks")["spec"]["variables"]
    known = json.loads(next(each["expression"] for each in variables if each["name"] == "known"))
    secrets = {each.variable for source in SOURCES.values() for each in source.secret_variables}
    assert set(known) == {"HTTPS_PROXY", *(name for name in secrets if not name.startswith("PREHEAT_"))}


def test_only_labelled_pods_outside_the_excluded_namespaces_are_sent(render) -> None:
    documents = render("--set", "webhook.excludedNamespaces={monitoring}")
    [webhook] = of_kind(documents, "MutatingWebhookConfiguration")[0]["webhooks"]
    assert webhook["objectSelector"] == {"matchExpressions": [{"key": "preheat.dev/pipeline", "operator": "Exists"}]}
    [excluded] = webhook["namespaceSelector"]["matchExpressions"]
    assert (excluded["key"], excluded["operator"]) == ("kubernetes.io/metadata.name", "NotIn")
    assert excluded["values"] == ["kube-system", "preheat-system", "monitoring"]
    assert (webhook["failurePolicy"], webhook["reinvocationPolicy"], webhook["timeoutSeconds"]) == (
        "Fail",
        "IfNeeded",
        5,
    )
    policy = named(documents, "ValidatingAdmissionPolicy", "require-loader")["spec"]["matchConstraints"]
    assert policy["objectSelector"] == webhook["objectSelector"]
    assert policy["namespaceSelector"] == webhook["namespaceSelector"]


def test_the_service_the_configuration_and_the_settings_name_each_other(render) -> None:
    documents = render("--set", "fullnameOverride=warm")
    client = of_kind(documents, "MutatingWebhookConfiguration")[0]["webhooks"][0]["clientConfig"]["service"]
    settings = environment(documents)
    assert client["name"] == settings["PREHEAT_SERVICE_NAME"] == "warm-webhook"
    assert of_kind(documents, "MutatingWebhookConfiguration")[0]["metadata"]["name"] == "warm"
    assert settings["PREHEAT_WEBHOOK_CONFIGURATION_NAME"] == "warm"
    service = of_kind(documents, "Service")[0]
    assert service["metadata"]["name"] == "warm-webhook"
    labels = named(documents, "Deployment", "webhook")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_the_settings_are_ones_that_the_operator_understands(render) -> None:
    from preheat_operator.settings import Settings

    for values in VALUE_SETS:
        found = environment(render("--values", values), "controller") | {"PREHEAT_NAMESPACE": "preheat-system"}
        settings = Settings.from_environment({k: v for k, v in found.items() if k.startswith("PREHEAT_")})
        assert settings.loader_resources["limits"]["memory"] in ("128Mi", "256Mi")
        assert set(settings.loader_environment) in (set(), {"HTTPS_PROXY"}, {"HTTPS_PROXY", "NO_PROXY"})


def test_where_a_policy_injects_nothing_is_left_of_the_webhook(render) -> None:
    documents = render(
        "--values", CHART / "ci" / "policy-values.yaml", "--set", "certificates.certManager.enabled=true"
    )
    names = [f"{document['kind']} {document['metadata']['name']}" for document in documents]
    assert not [name for name in names if "webhook" in name.lower() or "ertificate " in name or "Budget" in name]
    assert not [name for name, _, rule in rules(documents) if "secrets" in rule["resources"]]
    assert environment(documents, "controller")["PREHEAT_INJECTION"] == "policy"
    alerts = [rule["alert"] for rule in named(documents, "PrometheusRule", "preheat")["spec"]["groups"][0]["rules"]]
    assert alerts == [
        "PreheatLoadersFailing",
        "PreheatPodsWithoutLoader",
        "PreheatUploadsFailing",
        "PreheatCheckpointsUnsent",
        "PreheatControllerDown",
    ]
    for kind in ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"):
        assert not of_kind(render(), kind)
        assert of_kind(documents, kind)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("--kube-version", "1.35.4"), "Kubernetes 1.36 or newer, and this is v1.35.4: keep injection: webhook"),
        (("--set", "policy.requireLoader=false"), "would start without its checkpoint"),
    ],
)
def test_a_policy_that_could_not_inject_or_refuse_is_not_rendered(helm, wrong: tuple[str, str], says: str) -> None:
    assert says in helm("template", "preheat", CHART, "--set", "injection=policy", *wrong).stderr


def test_images_go_by_digest_when_one_is_given_else_by_tag_else_by_version(render) -> None:
    digest = "sha256:" + "1" * 64
    assert set(images(render("--set", "image.repository=r,image.tag=2"))) == {"r:2"}
    assert set(images(render("--set", f"image.repository=r,image.digest={digest},image.tag=2"))) == {f"r@{digest}"}
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert environment(render("--set", "loader.image.repository=l"))["PREHEAT_LOADER_IMAGE"] == f"l:{version}"


def test_the_version_is_the_packages(render) -> None:
    import preheat

    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == preheat.__version__


def test_the_crd_can_be_left_out_and_let_go(render) -> None:
    [kept] = of_kind(render(), "CustomResourceDefinition")
    assert kept["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    [loose] = of_kind(render("--set", "crds.keep=false"), "CustomResourceDefinition")
    assert "annotations" not in loose["metadata"]
    assert not of_kind(render("--set", "crds.install=false"), "CustomResourceDefinition")


def test_accounts_that_are_there_are_used_and_given_the_rights(render, helm) -> None:
    given = "controller.serviceAccount.create=false,controller.serviceAccount.name=given"
    documents = render("--set", f"{given},webhook.serviceAccount.name=own")
    assert [each["metadata"]["name"] for each in of_kind(documents, "ServiceAccount")] == ["own"]
    accounts = {each["spec"]["template"]["spec"]["serviceAccountName"] for each in of_kind(documents, "Deployment")}
    bindings = of_kind(documents, "ClusterRoleBinding") + of_kind(documents, "RoleBinding")
    bound = {subject["name"] for each in bindings for subject in each["subjects"]}
    assert accounts == bound == {"given", "own"}
    policy = named(documents, "ValidatingAdmissionPolicy", "limit-checks")
    [condition] = policy["spec"]["matchConditions"]
    assert condition["expression"].endswith(":given'")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("webhook.serviceAccount.create=false", "name the ServiceAccount that is there"),
        ("webhook.serviceAccount.name=one,controller.serviceAccount.name=one", "is the controller's"),
    ],
)
def test_accounts_that_cannot_be_meant_are_refused(helm, wrong: str, says: str) -> None:
    assert says in helm("template", "preheat", CHART, "--set", wrong).stderr


def test_a_single_replica_has_no_budget_that_blocks_drains(render) -> None:
    assert of_kind(render(), "PodDisruptionBudget")
    assert not of_kind(render("--set", "webhook.replicas=1"), "PodDisruptionBudget")


@pytest.mark.parametrize(
    "wrong",
    ["webhook.replica=3", "webhook.replicas=0", "webhook.timeoutSeconds=60", "image.digest=latest",
     "logging.level=loud", "injection=magic", "crds.keep=perhaps", "image.pullPolicy=Sometimes",
     "podMonitor.interval=often",
     "loader.environment.PREHEAT_SHIM=off", "certificates.certManager.issuerRef.names=internal",
     "certificates.caBundle=/etc/ssl/ca.pem", "webhook.port=0", "revisionHistoryLimit=-1"],
)  # fmt: skip
def test_a_value_that_cannot_be_meant_is_refused(helm, wrong: str) -> None:
    done = helm("template", "preheat", CHART, "--set", wrong)
    assert done.returncode != 0
    assert wrong.split("=")[0].rsplit(".", 1)[-1] in done.stderr


def test_every_value_is_commented_and_in_the_schema() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    schema = json.loads((CHART / "values.schema.json").read_text())
    top = [line.split(":")[0] for line in lines if line[:1].isalpha()]
    assert sorted(top) == sorted(set(schema["properties"]) - {"global"})
    for before, line in pairwise(lines):
        has_value = ":" in line and not line.lstrip().startswith("#") and line.split(":", 1)[1].strip()
        if has_value and not line.strip().startswith(("requests", "limits")):
            assert before.lstrip().startswith("# --"), line


def test_only_the_controller_may_ask_loaders_and_uploads_and_only_if_it_shall(render) -> None:
    def to_pods(*values: str) -> list[str]:
        policies = of_kind(render("--set", "networkPolicy.enabled=true", *values), "NetworkPolicy")
        rules = [(each["metadata"]["name"], rule) for each in policies for rule in each["spec"]["egress"]]
        ports = [{"protocol": "TCP", "port": port} for port in (PROGRESS_PORT, UPLOADS_PORT)]
        return [name for name, rule in rules if rule == {"to": [{"namespaceSelector": {}}], "ports": ports}]

    assert to_pods() == ["preheat-controller"]
    assert to_pods("--set", "progress.enabled=false") == []


def test_the_webhook_listens_where_it_is_told_and_everybody_knows(render) -> None:
    documents = render(
        "--set", "webhook.port=10443,webhook.healthPort=10080,webhook.hostNetwork=true,networkPolicy.enabled=true"
    )  # fmt: skip
    pod = named(documents, "Deployment", "webhook")["spec"]["template"]["spec"]
    ports = {each["name"]: each["containerPort"] for each in pod["containers"][0]["ports"]}
    assert ports == {"https": 10443, "health": 10080}
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    settings = environment(documents)
    assert (settings["PREHEAT_PORT"], settings["PREHEAT_HEALTH_PORT"]) == ("10443", "10080")
    [let_in] = named(documents, "NetworkPolicy", "webhook")["spec"]["ingress"]
    assert {10443, 10080} <= {each["port"] for each in let_in["ports"]}
    assert named(documents, "Service", "webhook")["spec"]["ports"][0]["targetPort"] == "https"
    assert "hostNetwork" not in named(documents, "Deployment", "controller")["spec"]["template"]["spec"]


def test_common_labels_are_on_every_object_and_select_nothing(render) -> None:
    documents = render("--set", "commonLabels.team=ml,serviceMonitor.enabled=true,dashboard.enabled=true")
    for document in documents:
        if document["kind"] != "CustomResourceDefinition":
            assert document["metadata"]["labels"]["team"] == "ml", document["kind"]
    for deployment in of_kind(documents, "Deployment"):
        assert deployment["spec"]["template"]["metadata"]["labels"]["team"] == "ml"
        assert "team" not in deployment["spec"]["selector"]["matchLabels"]


def test_a_platform_may_choose_the_user(render) -> None:
    documents = render("--set", "podSecurityContext.runAsUser=null,podSecurityContext.runAsGroup=null")
    for deployment in of_kind(documents, "Deployment"):
        context = deployment["spec"]["template"]["spec"]["securityContext"]
        assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
