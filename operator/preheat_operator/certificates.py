"""The Secret with the webhook's certificate, and the authorities that the API server trusts for it.

Our own is made, renewed and published here. Of the webhook configuration only `caBundle` is written, under a field
manager of its own: GitOps tools that render the rest see no difference. A given one, of cert-manager or of a person, is
only read, and so is what somebody else published.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime

import structlog
from lightkube import ApiError, AsyncClient
from lightkube.models.admissionregistration_v1 import MutatingWebhook
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.admissionregistration_v1 import MutatingWebhookConfiguration
from lightkube.resources.core_v1 import Secret
from lightkube.types import PatchType

from preheat_operator.authority import renewed
from preheat_operator.trust import certificates, covers, names_of

FIELD_MANAGER = "preheat-certificates"
_ATTEMPTS = 5  # another replica may write the Secret between our read and our write

_log = structlog.get_logger(__name__)


class NotPublishedError(Exception):
    """The API server cannot know whom to trust; the text says why."""


async def ensure(
    client: AsyncClient,
    namespace: str,
    secret_name: str,
    service_name: str,
    webhook_configuration_name: str,
    now: datetime | None = None,
) -> Mapping[str, bytes]:
    """Bring Secret and caBundle up to date; returns what the Secret holds (ca.crt, tls.crt, tls.key, ...)."""
    address = _address(namespace, service_name)
    names = [address, f"{address}.cluster.local"]
    for _ in range(_ATTEMPTS):
        held = await _ensure_secret(client, namespace, secret_name, names, now or datetime.now(UTC))
        if not await _publish(client, webhook_configuration_name, held["ca.crt"]):
            return held
        # Another replica may have made a new authority before we published the one before it: look again.
    raise NotPublishedError(f"MutatingWebhookConfiguration {webhook_configuration_name} does not keep its caBundle")


async def given(
    client: AsyncClient, namespace: str, secret_name: str, service_name: str, webhook_configuration_name: str
) -> Mapping[str, bytes]:
    """What somebody else keeps in the Secret; its ca.crt is the caBundle that somebody else published."""
    where, address = f"Secret {namespace}/{secret_name}", _address(namespace, service_name)
    secret = await _read(client, namespace, secret_name)
    if secret is None:
        raise NotPublishedError(f"{where} is not there yet")
    held = _decoded(secret)
    if not (chain := certificates(held.get("tls.crt"))):
        raise NotPublishedError(f"{where} holds no certificate in tls.crt")
    if not covers(names := names_of(chain[0]), address):
        raise NotPublishedError(f"{where} is for {', '.join(names) or 'no name'}, and not for {address}")
    bundles = {webhook.clientConfig.caBundle for webhook in await _webhooks(client, webhook_configuration_name)}
    return {**held, "ca.crt": b64decode(bundles.pop() or "") if len(bundles) == 1 else b""}


def _address(namespace: str, service_name: str) -> str:
    return f"{service_name}.{namespace}.svc"


async def _ensure_secret(
    client: AsyncClient, namespace: str, name: str, dns_names: list[str], now: datetime
) -> Mapping[str, bytes]:
    for _ in range(_ATTEMPTS):
        secret = await _read(client, namespace, name)
        held = _decoded(secret) if secret else {}
        wanted = renewed(held, dns_names, now)
        if wanted == held:
            return held
        data = {key: b64encode(value).decode() for key, value in wanted.items()}
        try:
            if secret is None:
                await client.create(Secret(metadata=ObjectMeta(name=name, namespace=namespace), data=data))
            else:
                secret.data = data
                await client.replace(secret)  # with its resourceVersion: never over another replica's
        except ApiError as error:
            if error.status.code != 409:
                raise
            continue
        _log.info("certificate renewed", secret=f"{namespace}/{name}")
        return wanted
    raise NotPublishedError(f"Secret {namespace}/{name} changes too often to be written")


async def _read(client: AsyncClient, namespace: str, name: str) -> Secret | None:
    try:
        return await client.get(Secret, name, namespace=namespace)
    except ApiError as error:
        if error.status.code == 404:
            return None
        raise


def _decoded(secret: Secret) -> dict[str, bytes]:
    return {key: b64decode(value) for key, value in (secret.data or {}).items()}


async def _webhooks(client: AsyncClient, name: str) -> list[MutatingWebhook]:
    """The configuration's webhooks; raises NotPublishedError when there is no such configuration."""
    try:
        return (await client.get(MutatingWebhookConfiguration, name)).webhooks or []
    except ApiError as error:
        if error.status.code == 404:
            raise NotPublishedError(f"there is no MutatingWebhookConfiguration {name}") from error
        raise


async def _publish(client: AsyncClient, name: str, authority: bytes) -> bool:
    """Write caBundle where it differs; whether it did."""
    bundle, webhooks = b64encode(authority).decode(), await _webhooks(client, name)
    if all(webhook.clientConfig.caBundle == bundle for webhook in webhooks):
        return False
    applied = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [{"name": webhook.name, "clientConfig": {"caBundle": bundle}} for webhook in webhooks],
    }
    await client.patch(
        MutatingWebhookConfiguration,
        name,
        applied,
        patch_type=PatchType.APPLY,
        field_manager=FIELD_MANAGER,
        force=True,
    )
    _log.info("authority published", configuration=name)
    return True
