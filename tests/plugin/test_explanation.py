"""Every rule by which a pod has its loader or not is a row here: what is known, and what is said."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from preheat_operator.admission import Entry, admit
from preheat_operator.plugin.explanation import Explanation, explain
from preheat_operator.plugin.installation import DEFAULTS, Installation
from preheat_operator.plugin.loaders import ran
from preheat_operator.plugin.rulings import Known
from preheat_operator.plugin.spelling import as_json
from preheat_operator.plugin.subjects import Subject, subjects_of
from preheat_operator.plugin.text import as_lines
from preheat_operator.plugin.text import explained as text_of

LABEL = "preheat.dev/pipeline"
STAGES = [{"s3": {"bucket": "my-models", "key": "model.ckpt"}}, {"weightsOnly": {}}]
LOADED = (
    '{"outcome": "loaded", "source": {"uri": "s3://my-models/model.ckpt", "version": "v7"}, "fetchedBytes": 42000000}'
)
MISSING = '{"outcome": "failed", "reason": "NotFound", "message": "no key model.ckpt", "remedy": "Check `key`"}'


def pipeline(name: str = "finetune", **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "team-a", "uid": "p-1", "generation": 3}
    return {"metadata": metadata, "spec": {"stages": STAGES}, "status": {"observedGeneration": 3, **status}}


CHECKED = pipeline(
    conditions=[{"type": "Ready", "status": "True", "reason": "Checked", "message": "found"}],
    check={"time": "2026-05-04T10:00:00Z", "uri": "s3://my-models/model.ckpt", "version": "v7"},
)


def hook(**changes: Any) -> dict[str, Any]:
    """The chart's configuration as the webhook has completed it."""
    webhook = {
        "name": "pods.preheat.dev",
        "clientConfig": {"caBundle": "Q0E=", "service": {"namespace": "preheat-system", "name": "preheat-webhook"}},
        "objectSelector": {"matchExpressions": [{"key": LABEL, "operator": "Exists"}]},
        "namespaceSelector": excluding("kube-system", "preheat-system"),
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        "failurePolicy": "Fail",
    }
    labels = {"app.kubernetes.io/part-of": "preheat"}
    metadata = {"name": "preheat", "labels": labels, "creationTimestamp": "2026-05-01T00:00:00Z"}
    return {"metadata": metadata, "webhooks": [{**webhook, **changes}]}


def excluding(*namespaces: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [*namespaces]}]}


POLICY = {"metadata": {"name": "preheat-require-loader"}, "spec": {"policyName": "preheat-require-loader"}}


def installed(*configurations: dict[str, Any], bindings: Any = (POLICY,), **changes: Any) -> Installation:
    return Installation(configurations=configurations, bindings=bindings, ready_replicas=2, **changes)


def known(installation: Installation | None = None, **pipelines: dict[str, Any]) -> Known:
    found = {name: Entry(each) for name, each in (pipelines or {"finetune": CHECKED}).items()}
    labels = {"kubernetes.io/metadata.name": "team-a"}
    return Known(installation or installed(hook()), labels, found)


def job(labels: Any = None, template: Any = None, annotations: Any = None, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "train", "image": "trainer:1"}, {"name": "log", "image": "log:1"}]
    pod = {"metadata": {"labels": template or {}, "annotations": annotations or {}}}
    return {
        "kind": "Job",
        "metadata": {"name": "finetune", "namespace": "team-a", "labels": labels or {}},
        "spec": {"template": {**pod, "spec": {"containers": containers, **spec}}},
    }


def labelled(pipeline: str = "finetune", **changes: Any) -> dict[str, Any]:
    return job(template={LABEL: pipeline}, **changes)


def explained(document: dict[str, Any], around: Known | None = None) -> Explanation:
    [subject] = subjects_of(document, "team-a")
    return explain(subject, around or known())


def by_policy(namespaces: dict[str, Any] | None = None) -> Installation:
    """The chart with `injection: policy`."""
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]
    constraints = {
        "objectSelector": {"matchExpressions": [{"key": LABEL, "operator": "Exists"}]},
        "namespaceSelector": namespaces or excluding("kube-system"),
        "resourceRules": rules,
    }
    policy = {"metadata": {"name": "preheat-inject"}, "spec": {"matchConstraints": constraints}}
    return Installation(configurations=[], bindings=[POLICY], policies=[policy])


PREPARED = {**CHECKED, "status": {**CHECKED["status"], "injection": {"pipeline": "{}"}}}

RULES: dict[str, tuple[dict[str, Any], Known, str, str, str, str]] = {
    # what, what is known, verdict, rule, a part of why, a part of what to do
    "label": (labelled(), known(), "injected", "Labelled", "finetune", ""),
    "no label": (job(), known(), "ignored", "NoLabel", "leaves it alone", "its namespace: finetune"),
    "label on the Job": (
        job(labels={LABEL: "finetune"}), known(), "ignored", "LabelOnWorkload",
        "job/finetune has it among its own labels", "Move it to spec.template.metadata.labels",
    ),
    "an annotation": (
        job(annotations={LABEL: "finetune"}), known(), "ignored", "LabelIsAnnotation",
        "but an annotation of that name", "Make it a label",
    ),
    "a slip of the pen": (
        job(template={"preheat.dev/pipelines": "finetune"}), known(), "ignored", "LabelMisspelt",
        "preheat.dev/pipelines", f"Write {LABEL}",
    ),
    "nothing installed, no policy": (
        labelled(), known(installed(bindings=())), "missed", "NotInstalled", "not installed", "Install the chart",
    ),
    "configuration deleted, policy there": (
        labelled(), known(installed()), "refused", "NotInstalled", "the chart's policy refuses", "Install the chart",
    ),
    "configuration deleted, policies unreadable": (
        labelled(), known(installed(bindings=None)), "missed", "NotInstalled", "or it is refused, if", "",
    ),
    "webhook edited away": (
        labelled(), known(installed({**hook(), "webhooks": []})), "refused", "InjectionEdited",
        "MutatingWebhookConfiguration preheat holds no webhook pods.preheat.dev", "helm upgrade",
    ),
    "objectSelector edited": (
        labelled(), known(installed(hook(objectSelector={"matchLabels": {"team": "b"}}))), "refused", "InjectionEdited",
        "objectSelector in MutatingWebhookConfiguration preheat", "helm upgrade",
    ),
    "rules edited": (
        labelled(), known(installed(hook(rules=[]))), "refused", "InjectionEdited", "no rule", "helm upgrade",
    ),
    "namespaceSelector by other labels": (
        labelled(), known(installed(hook(namespaceSelector={"matchLabels": {"gpu": "yes"}}))), "refused",
        "InjectionEdited", "namespaceSelector", "helm upgrade",
    ),
    "namespace excluded": (
        labelled(), known(installed(hook(namespaceSelector=excluding("team-a")))), "missed", "NamespaceExcluded",
        "namespace team-a is left alone", "webhook.excludedNamespaces",
    ),
    "no caBundle yet": (
        labelled(), known(installed(hook(clientConfig={}))), "refused", "WebhookNotReady", "no caBundle", "log",
    ),
    "no replica ready, and failures ignored": (
        labelled(), known(Installation(configurations=[hook(failurePolicy="Ignore")], bindings=[], ready_replicas=0)),
        "missed", "WebhookNotReady", "no replica", "Look at its pods",
    ),
    "no such pipeline": (
        labelled("finetun"), known(), "refused", "PipelineMissing",
        "namespace team-a has no CheckpointPipeline 'finetun'", "Did you mean finetune? There are: finetune",
    ),
    "pipelines unreadable": (
        labelled(), Known(installed(hook()), {"kubernetes.io/metadata.name": "team-a"}), "unknown",
        "PipelineUnreadable", "could not be read", "",
    ),
    "invalid pipeline": (
        labelled(), known(finetune={**CHECKED, "spec": {"stages": STAGES[1:]}}), "refused", "PipelineInvalid",
        "CheckpointPipeline team-a/finetune cannot be used: stages: the first stage says where the checkpoint is", "",
    ),
    "by policy, in a namespace that it excludes": (
        labelled(), known(by_policy(excluding("team-a"))), "missed", "NamespaceExcluded",
        "MutatingAdmissionPolicy preheat-inject excludes it", "excludedNamespaces",
    ),
    "by policy, edited": (
        labelled(), known(by_policy({"matchLabels": {"gpu": "yes"}})), "refused", "InjectionEdited",
        "namespaceSelector in MutatingAdmissionPolicy preheat-inject", "helm upgrade",
    ),
    "by policy, before the controller has seen the pipeline": (
        labelled(), known(by_policy()), "refused", "PipelineUnseen", "has not seen pipeline finetune", "Try again",
    ),
    "by policy": (labelled(), known(by_policy(), finetune=PREPARED), "injected", "Labelled", "finetune", ""),
    "a pod for Windows": (
        labelled(os={"name": "windows"}), known(), "refused", "PodRefused",
        "CheckpointPipeline team-a/finetune: the pod is for Windows", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RULES)
def test_a_rule_decides_and_says_so(case: str) -> None:
    document, around, verdict, rule, why, remedy = RULES[case]
    found = explained(document, around)
    assert (found.verdict, found.rule) == (verdict, rule)
    assert why in found.message
    assert remedy in found.remedy
    assert found.fine is (case in ("label", "no label", "by policy"))


def test_what_the_loader_will_be_given_is_read_from_the_pod_that_the_webhook_makes() -> None:
    given = explained(labelled(annotations={"preheat.dev/shim": "manual", "preheat.dev/containers": "train"})).given
    assert given is not None
    assert (given.pipeline, given.generation, given.version) == ("finetune", 3, "v7")
    assert (given.containers, given.shim, given.image) == (("train",), "manual", DEFAULTS.loader_image)


def test_the_condition_of_the_pipeline_is_told() -> None:
    facts = explained(labelled()).pipeline
    assert facts is not None
    assert (facts.ready, facts.reason, facts.message) == ("True", "Checked", "found")


def pod(*, loader: bool = True, made: str = "2026-05-04T10:00:00Z", **status: Any) -> dict[str, Any]:
    [template] = subjects_of(labelled(), "team-a")
    made_of = copy.deepcopy(dict(template.pod))
    if loader:
        made_of = admit(made_of, "team-a", Entry(CHECKED), DEFAULTS)
    metadata = {
        **made_of["metadata"],
        "name": "finetune-x",
        "namespace": "team-a",
        "uid": "1",
        "creationTimestamp": made,
    }
    state = {"name": "preheat-loader", "restartCount": 0, **status}
    return {**made_of, "kind": "Pod", "metadata": metadata, "status": {"initContainerStatuses": [state]}}


def ended(code: int, message: str) -> dict[str, Any]:
    times = {"startedAt": "2026-05-04T10:00:01Z", "finishedAt": "2026-05-04T10:00:04Z"}
    return {"terminated": {"exitCode": code, "message": message, **times}}


def test_a_loaded_pod_says_what_its_loader_did() -> None:
    found = explained(pod(state=ended(0, LOADED)))
    assert (found.exists, found.verdict, found.fine) == (True, "injected", True)
    assert found.loader is not None
    assert (found.loader.phase, found.loader.seconds, found.loader.version) == ("loaded", 3, "v7")


def test_a_failed_loader_is_no_success_of_the_injection() -> None:
    found = explained(pod(state=ended(11, MISSING)))
    assert (found.verdict, found.fine) == ("injected", False)
    assert found.loader is not None
    assert (found.loader.reason, found.loader.message, found.loader.remedy) == (
        "NotFound", "no key model.ckpt", "Check `key`",
    )  # fmt: skip


def test_a_running_loader_has_run_for_some_time() -> None:
    running = pod(state={"running": {"startedAt": "2026-05-04T10:00:01Z"}})
    assert ran(running, datetime(2026, 5, 4, 10, 0, 31, tzinfo=UTC)).seconds == 30


def test_a_pod_of_an_earlier_generation_is_told_apart() -> None:
    now = {**CHECKED, "metadata": {**CHECKED["metadata"], "generation": 4}}
    found = explained(pod(), known(finetune=now))
    assert found.cautions == ("the pipeline has changed since, to generation 4",)


def test_a_label_that_was_taken_away_later_changes_nothing() -> None:
    changed = pod()
    changed["metadata"]["labels"] = {}
    assert "taken away later" in explained(changed).message


MISSED: dict[str, tuple[dict[str, Any], Known, str, str]] = {
    "made before": (pod(loader=False, made="2026-04-01T00:00:00Z"), known(), "MadeBefore", "delete it"),
    "label later": (pod(loader=False), known(), "NotSeen", "delete it and create it again"),
    "namespace excluded": (
        pod(loader=False), known(installed(hook(namespaceSelector=excluding("team-a")))), "NamespaceExcluded",
        "Make the pod anew",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISSED)
def test_a_labelled_pod_without_loader_is_missed(case: str) -> None:
    document, around, rule, remedy = MISSED[case]
    found = explained(document, around)
    assert (found.verdict, found.rule, found.fine) == ("missed", rule, False)
    assert "runs without the loader" in found.message
    assert remedy in found.remedy


def test_a_missed_pod_of_a_deployment_is_made_anew_by_a_rollout() -> None:
    owners = {"replicaset/trainer-1": {}, "deployment/trainer": {}}
    found = explain(Subject("pod/x", "team-a", pod(loader=False), exists=True, owners=owners), known())
    assert found.remedy.endswith("kubectl -n team-a rollout restart deployment/trainer")


def test_a_pod_whose_deployment_has_the_label_is_told_where_it_belongs() -> None:
    bare = {"kind": "Pod", "metadata": {"name": "x", "uid": "1"}, "spec": {"containers": [{"name": "train"}]}}
    owners = {"replicaset/trainer-1": {}, "deployment/trainer": {"labels": {LABEL: "finetune"}}}
    found = explain(Subject("pod/x", "team-a", bare, exists=True, owners=owners), known())
    assert (found.rule, found.remedy) == (
        "LabelOnWorkload", "Move it to the pod template of deployment/trainer: metadata.labels",
    )  # fmt: skip


def test_the_label_on_the_job_of_a_cronjob_is_found_there() -> None:
    template = {**job()["spec"], "metadata": {"labels": {LABEL: "finetune"}}}
    inner = {"metadata": template.pop("metadata"), "spec": template}
    found = explained({"kind": "CronJob", "metadata": {"name": "nightly"}, "spec": {"jobTemplate": inner}})
    assert "spec.jobTemplate has it among its own labels" in found.message
    assert found.remedy == "Move it to spec.jobTemplate.spec.template.metadata.labels"


def test_what_may_not_be_read_is_taken_for_as_the_chart_makes_it() -> None:
    unread = Known(Installation(), {"kubernetes.io/metadata.name": "kube-system"}, {}, notes=("you may not read",))
    found = explained(labelled(), unread)
    assert (found.verdict, found.rule, found.notes) == ("missed", "NamespaceExcluded", ("you may not read",))


def test_what_makes_an_answer_uncertain_is_noted() -> None:
    found = explained(labelled(), known(installed(hook(failurePolicy="Ignore", matchConditions=[{"name": "x"}]))))
    assert [note.split(" ")[3] for note in found.notes] == ["matchConditions,", "is"]


def test_the_pods_of_each_workload_stand_below_it() -> None:
    first, second = explained(labelled()), explained(job())
    loaded = replace(explained(pod(state=ended(0, LOADED))), workload="job/finetune")
    text = as_lines(text_of([first, loaded, second, replace(explained(pod(loader=False)), workload="job/other")]))
    heads = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert [head.split()[0] for head in heads] == [
        "job/finetune", "POD", "finetune-x", "job/finetune", "POD", "finetune-x",
    ]  # fmt: skip
    assert heads[2].split()[1:] == ["injected", "loaded", "in", "3.0", "s,", "42.0", "MB", "read"]
    assert heads[5].split()[1:] == ["missed", "NotSeen"]


def test_json_has_what_is_known_and_nothing_else() -> None:
    found = as_json(explained(job()))
    assert set(found) == {"subject", "namespace", "exists", "verdict", "rule", "message", "remedy", "path"}
    assert found["exists"] is False
