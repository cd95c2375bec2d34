"""Whether the API server asks the webhook about a pod, or has the policy that stands in for it change the pod."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from preheat_operator.plugin.installation import WEBHOOK, Installation
from preheat_operator.plugin.selectors import keys_of, selects

Object = Mapping[str, Any]

NAMESPACE_NAME = "kubernetes.io/metadata.name"
NOT_INSTALLED, EDITED, EXCLUDED, NOT_READY = "NotInstalled", "InjectionEdited", "NamespaceExcluded", "WebhookNotReady"


@dataclass(frozen=True)
class PassedBy:
    """Why the webhook is not asked about a pod, or gives no answer."""

    rule: str
    message: str
    remedy: str
    refused: bool = False  # the API server itself refuses the pod then


def passed_by(installation: Installation, pod: Object, namespace: Mapping[str, str]) -> PassedBy | None:
    """Why the webhook decides nothing about a labelled pod in a namespace with these labels; None: it decides.

    A configuration that may not be read is taken to be as the chart makes it.
    """
    if installation.policy:
        constraints = installation.policy["spec"]["matchConstraints"]
        where = f"MutatingAdmissionPolicy {installation.policy['metadata']['name']}"
        by_policy = _passed_over(constraints, constraints.get("resourceRules"), pod, namespace, where)
        if by_policy is None or not installation.webhook:
            return by_policy
    if installation.configurations is None:
        here = str(namespace.get(NAMESPACE_NAME))
        return _excluded(here, "the chart") if here in ("kube-system", installation.settings.namespace) else None
    if installation.configuration is None:
        message = f"the cluster has no MutatingWebhookConfiguration with {WEBHOOK}: Preheat is not installed"
        return PassedBy(NOT_INSTALLED, message, "Install the chart")
    where = f"MutatingWebhookConfiguration {installation.configuration['metadata']['name']}"
    webhook = installation.webhook
    if webhook is None:
        return _edited(f"{where} holds no webhook {WEBHOOK}")
    passed = _passed_over(webhook, webhook.get("rules"), pod, namespace, where)
    return passed or _unanswered(webhook, installation, where)


def _passed_over(
    selectors: Object, rules: Any, pod: Object, namespace: Mapping[str, str], where: str
) -> PassedBy | None:
    labels = (pod.get("metadata") or {}).get("labels") or {}
    if not selects(selectors.get("objectSelector"), labels):
        return _edited(f"the objectSelector in {where} does not select the pod's labels")
    selector = selectors.get("namespaceSelector")
    if not selects(selector, namespace):
        if keys_of(selector) == {NAMESPACE_NAME}:
            return _excluded(str(namespace.get(NAMESPACE_NAME)), where)
        return _edited(f"the namespaceSelector in {where} does not select the labels of the namespace")
    if not any(_is_about_pods(rule) for rule in rules or ()):
        return _edited(f"no rule in {where} is about the creation of pods")
    return None


def _unanswered(webhook: Object, installation: Installation, where: str) -> PassedBy | None:
    refused = webhook.get("failurePolicy") != "Ignore"
    if not (webhook.get("clientConfig") or {}).get("caBundle"):
        message = f"{where} has no caBundle: the API server trusts no answer of the webhook"
        remedy = "Look at the webhook's log: it writes the caBundle when it starts"
        return PassedBy(NOT_READY, message, remedy, refused)
    if installation.ready_replicas == 0:
        message = "no replica of the webhook is ready: nobody answers the API server"
        return PassedBy(NOT_READY, message, f"Look at its pods in namespace {installation.settings.namespace}", refused)
    return None


def _edited(what: str) -> PassedBy:
    return PassedBy(EDITED, what, "Restore it: `helm upgrade` of the chart")


def _excluded(namespace: str, where: str) -> PassedBy:
    remedy = (
        "Use another namespace, or take it out of the chart's webhook.excludedNamespaces; kube-system and Preheat's "
        "own are always left alone"
    )
    return PassedBy(EXCLUDED, f"namespace {namespace} is left alone: {where} excludes it", remedy)


def _is_about_pods(rule: Object) -> bool:
    wanted = (("apiGroups", ""), ("apiVersions", "v1"), ("operations", "CREATE"), ("resources", "pods"))
    return all({word, "*"} & set(rule.get(key) or ()) for key, word in wanted)
