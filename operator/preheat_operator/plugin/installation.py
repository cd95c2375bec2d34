"""What is known of Preheat's installation in a cluster: its settings, and what tells the API server to ask it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from preheat import __version__
from preheat_operator.settings import Settings, SettingsError

Object = Mapping[str, Any]

#: The chart's names: of the webhook in its configuration, of policies by their purpose, and on all that it makes.
WEBHOOK = "pods.preheat.dev"
INJECT, REQUIRE_LOADER = "-inject", "-require-loader"
PART_OF = "app.kubernetes.io/part-of"
COMPONENT = "app.kubernetes.io/component"
#: Where nothing else is known: the chart's values as they come.
DEFAULTS = Settings(namespace="preheat-system", loader_image=f"preheat-loader:{__version__}")


@dataclass(frozen=True)
class Installation:
    """What the cluster has been told about Preheat; None is what could not be read."""

    settings: Settings = DEFAULTS
    origin: str = "the chart's defaults"  # of the settings
    configurations: Sequence[Object] | None = None  # all MutatingWebhookConfigurations
    policies: Sequence[Object] | None = None  # the chart's MutatingAdmissionPolicies
    bindings: Sequence[Object] | None = None  # of the chart's ValidatingAdmissionPolicies
    ready_replicas: int | None = None  # of the webhook

    @property
    def configuration(self) -> Object | None:
        """What holds the webhook, or once did: it bears the chart's label."""
        for each in self.configurations or ():
            if _webhook_in(each) or (each["metadata"].get("labels") or {}).get(PART_OF) == "preheat":
                return each
        return None

    @property
    def webhook(self) -> Object | None:
        """The webhook as the API server knows it."""
        return _webhook_in(self.configuration or {})

    @property
    def policy(self) -> Object | None:
        """What injects in place of the webhook, where the chart was told to have it so."""
        return next((each for each in self.policies or () if each["metadata"]["name"].endswith(INJECT)), None)

    @property
    def created(self) -> str:
        """Since when pods are injected; empty: that is not known."""
        made = [each["metadata"].get("creationTimestamp") for each in (self.configuration, self.policy) if each]
        return min(filter(None, made), default="")

    @property
    def requires_loader(self) -> bool | None:
        """Whether a labelled pod without loader is refused by policy."""
        if self.bindings is None:
            return None
        return any(str(each["spec"].get("policyName", "")).endswith(REQUIRE_LOADER) for each in self.bindings)


def with_deployments(installation: Installation, deployments: Sequence[Object]) -> Installation:
    """The installation with the settings that its processes run with; as it was where they cannot be told."""
    found = {(each["metadata"].get("labels") or {}).get(COMPONENT): each for each in deployments}
    if "webhook" in found:
        replicas = int((found["webhook"].get("status") or {}).get("readyReplicas") or 0)
        return replace(_with_settings(installation, found["webhook"]), ready_replicas=replicas)
    return _with_settings(installation, found["controller"]) if "controller" in found else installation


def caveats(installation: Installation) -> Iterator[str]:
    """What the configuration holds that makes an answer less than certain."""
    webhook = installation.webhook or {}
    if webhook.get("matchConditions"):
        yield "the webhook has matchConditions, which are not evaluated here"
    if webhook.get("failurePolicy") == "Ignore":
        yield "the webhook's failurePolicy is Ignore: while it does not answer, pods run without their checkpoint"


def _with_settings(installation: Installation, deployment: Object) -> Installation:
    metadata = deployment["metadata"]
    [container, *_] = deployment["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each["value"] for each in container.get("env") or () if "value" in each}
    try:
        settings = Settings.from_environment({"PREHEAT_NAMESPACE": metadata["namespace"], **given})
    except SettingsError:
        return installation
    return replace(installation, settings=settings, origin=f"deployment {metadata['namespace']}/{metadata['name']}")


def _webhook_in(configuration: Object) -> Object | None:
    return next((each for each in configuration.get("webhooks") or () if each.get("name") == WEBHOOK), None)
