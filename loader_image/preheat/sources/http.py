"""A checkpoint behind a URL."""

from __future__ import annotations

import os
from base64 import b64encode
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from preheat.blob import Blob, Patience
from preheat.errors import AccessDeniedError, CheckpointConfigError
from preheat.limits import Limit, SecretName
from preheat.sources.authorities import CABundle, check_ca_bundle
from preheat.stage import CheckpointSource, Place, SecretVariable

ANONYMOUS = "anonymous reads without credentials: remove secretRef, or set anonymous to false"


@dataclass(frozen=True)
class HTTPSource(Place):
    """Read the checkpoint over HTTP or HTTPS, by ranges."""

    example: ClassVar[str] = 'http: {url: "https://models.example.org/model-v1.ckpt", secretRef: models-token}'

    # No user:password@ before the first slash: a resource is no place for credentials.
    url: Annotated[str, Limit(max_length=2048, pattern=r"^https?://[^@/?#\s]+(/[^\s]*)?$")]
    """URL of the file, of the index or `.metadata` of a checkpoint of several, or, ending in a slash, of their folder.
    Credentials do not belong in it; see secretRef."""

    secret_ref: SecretName | None = None
    """Name of a Secret in the pod's namespace: key `token` (bearer), or `username` and `password` (basic)."""

    anonymous: bool = False
    """Send no credentials, whatever the environment holds."""

    ca_bundle: CABundle | None = None
    """Certificates, as PEM text, of the authorities that the server is trusted by; default: the system's."""

    secret_variables: ClassVar[tuple[SecretVariable, ...]] = (
        SecretVariable("PREHEAT_HTTP_TOKEN", "token"),
        SecretVariable("PREHEAT_HTTP_USERNAME", "username"),
        SecretVariable("PREHEAT_HTTP_PASSWORD", "password"),
    )

    def __post_init__(self) -> None:
        """Credentials for nobody are a mistake; what is no certificate is refused before a handshake fails for it."""
        super().__post_init__()
        if self.anonymous and self.secret_ref:
            raise CheckpointConfigError(ANONYMOUS)
        check_ca_bundle("caBundle", self.ca_bundle)

    @property
    def uri(self) -> str:
        """The URL without its query, which may carry a signature."""
        return self.url.partition("?")[0]

    def beside(self, name: str) -> CheckpointSource:
        """A URL that differs in the last part of its path; the query stays."""
        folder, _, query = self._parts()
        return replace(self, url=folder + name + query)

    def below(self, path: str) -> HTTPSource:
        """A URL whose path goes on; the query stays."""
        where, mark, query = self.url.partition("?")
        return replace(self, url=f"{where.rstrip('/')}/{path}{mark}{query}")

    def open(self, patience: Patience) -> Blob:
        """Ask for size and version with one request, of every file where there are several."""
        from preheat.formats.folders import open_in
        from preheat.sources.http_folder import HttpFolder

        folder, name, query = self._parts()
        place = HttpFolder(folder, query, self.authorization(), patience, self.ca_bundle)
        return open_in(place, name)

    def _parts(self) -> tuple[str, str, str]:
        """The folder with its slash, the name in it, and the query with its mark."""
        where, mark, query = self.url.partition("?")
        folder, slash, name = where.rpartition("/")
        if folder.endswith(":/"):  # a host alone
            folder, slash, name = where, "/", ""
        return folder + slash, name, mark + query

    def authorization(self) -> dict[str, str]:
        """The header that the environment's credentials make; raises AccessDeniedError without those of `secretRef`."""
        if self.anonymous:
            return {}
        if self.secret_ref and not any(secret(each.variable) for each in self.secret_variables):
            raise AccessDeniedError(
                f"Secret {self.secret_ref!r} is missing, or has none of the keys token, username and password",
                remedy="Create it in the pod's namespace; outside a cluster set PREHEAT_HTTP_TOKEN, or "
                "PREHEAT_HTTP_USERNAME and PREHEAT_HTTP_PASSWORD",
            )
        if token := secret("PREHEAT_HTTP_TOKEN"):
            return bearer(token, "token")
        if username := secret("PREHEAT_HTTP_USERNAME"):
            pair = f"{username}:{secret('PREHEAT_HTTP_PASSWORD')}"
            return {"Authorization": "Basic " + b64encode(pair.encode()).decode()}
        return {}


def bearer(token: str, key: str) -> dict[str, str]:
    """The header with a token; raises CheckpointConfigError that names its key of the Secret, and not the token."""
    # http.client would quote what it refuses, and the log would show it.
    if not (token.isascii() and token.isprintable()):
        raise CheckpointConfigError(
            "the token of secretRef has characters that no HTTP header may carry",
            remedy=f"Store the bare token in the Secret's key `{key}`",
        )
    return {"Authorization": f"Bearer {token}"}


def secret(variable: str) -> str:
    """A value of the Secret, without the line break that a file or `echo` ends in."""
    return os.environ.get(variable, "").strip("\r\n")
