"""The webhook's certificate: kept in a Secret that its replicas share, published to the API server, served, rotated.

Of the webhook configuration only `caBundle` is written, under a field manager of its own: GitOps tools that render the
rest see no difference. A certificate is served only once the authority that issued it is published.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from tempfile import NamedTemporaryFile

import httpx2
import structlog
from lightkube import ApiError, AsyncClient
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.admissionregistration_v1 import MutatingWebhookConfiguration
from lightkube.resources.core_v1 import Secret
from lightkube.types import PatchType

from preheat_operator import metrics
from preheat_operator.authority import Identity, renewed, trusts
from preheat_operator.settings import Settings

FIELD_MANAGER = "preheat-certificates"
CHECK_SECONDS = 60.0
RETRY_SECONDS = 2.0
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
    names = [f"{service_name}.{namespace}.svc", f"{service_name}.{namespace}.svc.cluster.local"]
    held = await _ensure_secret(client, namespace, secret_name, names, now or datetime.now(UTC))
    await _publish(client, webhook_configuration_name, held["ca.crt"])
    return held


async def _ensure_secret(
    client: AsyncClient, namespace: str, name: str, dns_names: list[str], now: datetime
) -> Mapping[str, bytes]:
    for _ in range(_ATTEMPTS):
        secret = await _read(client, namespace, name)
        held = {key: b64decode(value) for key, value in ((secret and secret.data) or {}).items()}
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


async def _publish(client: AsyncClient, name: str, authority: bytes) -> None:
    """Write caBundle where it differs; raises NotPublishedError when there is no such configuration."""
    try:
        configuration = await client.get(MutatingWebhookConfiguration, name)
    except ApiError as error:
        if error.status.code == 404:
            raise NotPublishedError(f"there is no MutatingWebhookConfiguration {name}") from error
        raise
    bundle, webhooks = b64encode(authority).decode(), configuration.webhooks or []
    if all(webhook.clientConfig.caBundle == bundle for webhook in webhooks):
        return
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


class ServingCertificate:
    """The TLS side of the webhook; `context` answers every new handshake with the certificate loaded last."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._clock = clock
        self._loaded: Identity | None = None
        self._trouble = "there is no certificate yet"

    @property
    def problem(self) -> str | None:
        """Why the API server would not trust us, or None."""
        if self._loaded is None:
            return self._trouble
        if self._loaded.certificate.not_valid_after_utc <= self._clock():
            return f"the certificate has expired: {self._trouble}"
        return None

    def load(self, held: Mapping[str, bytes]) -> None:
        """Serve this certificate from the next handshake on; one that cannot be trusted changes nothing and raises."""
        identity = Identity.load(held.get("tls.crt"), held.get("tls.key"))
        if identity is None or not trusts(held.get("ca.crt", b""), identity.certificate):
            raise NotPublishedError("the Secret's certificate, key and authority do not belong together")
        if identity.certificate == (self._loaded and self._loaded.certificate):
            return
        with _file(held["tls.crt"] + held["tls.key"]) as path:
            self.context.load_cert_chain(path)
        self._loaded = identity
        metrics.CERTIFICATE_EXPIRY.set(identity.certificate.not_valid_after_utc.timestamp())
        _log.info("certificate loaded", ends=identity.certificate.not_valid_after_utc.isoformat())

    async def keep(self, client: AsyncClient, settings: Settings) -> None:
        """Renew, publish and load for ever; what is being served stays while the API server cannot be reached."""
        while True:
            try:
                held = await ensure(
                    client,
                    settings.namespace,
                    settings.secret_name,
                    settings.service_name,
                    settings.webhook_configuration_name,
                    self._clock(),
                )
                self.load(held)
            except (ApiError, httpx2.HTTPError, NotPublishedError) as error:
                self._trouble = str(error) or type(error).__name__
                _log.warning("certificate not ensured", why=self._trouble)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                await asyncio.sleep(CHECK_SECONDS)


@contextmanager
def _file(content: bytes) -> Iterator[str]:
    """A path to `content`, which OpenSSL insists on; on Linux it never touches a disk."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(content)
            yield f"/proc/self/fd/{descriptor}"
    else:
        with NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
