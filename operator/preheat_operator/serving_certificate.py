"""The TLS side of the webhook: serves what the Secret holds, once the API server trusts it, and notices renewals."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from tempfile import NamedTemporaryFile

import httpx2
import structlog
from cryptography import x509
from lightkube import ApiError, AsyncClient

from preheat_operator import metrics
from preheat_operator.certificates import NotPublishedError, ensure, given
from preheat_operator.settings import Settings
from preheat_operator.trust import certificates, trusts

#: Two small reads; for as long, a certificate may be served that the API server no longer trusts.
CHECK_SECONDS = 10.0
RETRY_SECONDS = 2.0

_log = structlog.get_logger(__name__)


class ServingCertificate:
    """`context` answers every new handshake with the certificate loaded last."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        # OpenSSL keeps one certificate for each kind of key and lets the client choose: each gets a context of its own.
        self.context = _context()
        self.context.sni_callback = self._choose
        self._current: ssl.SSLContext | None = None
        self._clock = clock
        self._chain: list[x509.Certificate] = []
        self._trusted = b""
        self._trouble = "there is no certificate yet"

    @property
    def problem(self) -> str | None:
        """Why the API server would not trust us, or None."""
        if not self._chain:
            return self._trouble
        certificate, *between = self._chain
        if certificate.not_valid_after_utc <= self._clock():
            return ": ".join(filter(None, ("the certificate has expired", self._trouble)))
        return None if trusts(self._trusted, certificate, between) else self._trouble

    def load(self, held: Mapping[str, bytes]) -> None:
        """Serve this certificate from the next handshake on; one that ca.crt does not trust raises, the last stays.

        API servers hear of a new authority a moment later than we do: its first certificate waits until the next look
        while the one that is served is trusted, too.
        """
        before, chain = self._trusted, certificates(held.get("tls.crt"))
        self._trusted = held.get("ca.crt", b"")
        if not self._trusted:
            raise NotPublishedError("no caBundle is published yet")
        if not chain or not trusts(self._trusted, chain[0], chain[1:]):
            raise NotPublishedError("the certificate was not issued by an authority of the published caBundle")
        if chain == self._chain or (self.problem is None and not trusts(before, chain[0], chain[1:])):
            return
        context = _context()
        try:
            with _file(held["tls.crt"] + b"\n" + held.get("tls.key", b"")) as path:
                context.load_cert_chain(path, password="")
        except (ssl.SSLError, ValueError) as error:
            raise NotPublishedError(
                f"the key does not belong to the certificate, or cannot be read: {error}"
            ) from error
        self._current, self._chain = context, chain
        metrics.CERTIFICATE_EXPIRY.set(chain[0].not_valid_after_utc.timestamp())
        _log.info("certificate loaded", ends=chain[0].not_valid_after_utc.isoformat())

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        if self._current is not None:
            connection.context = self._current

    async def keep(self, client: AsyncClient, settings: Settings) -> None:
        """Look and load for ever, our own renewed first; what is served stays while the API server is out of reach."""
        names = (
            settings.namespace,
            settings.secret_name,
            settings.service_name,
            settings.webhook_configuration_name,
        )
        own = settings.certificates == "own"
        while True:
            try:
                self.load(await (ensure(client, *names, self._clock()) if own else given(client, *names)))
            except (ApiError, httpx2.HTTPError, NotPublishedError) as error:
                self._note(str(error) or type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._note("")
                await asyncio.sleep(CHECK_SECONDS)

    def _note(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            _log.warning("certificate not to be had", why=trouble)
        self._trouble = trouble


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


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
