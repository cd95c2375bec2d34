"""Certificate authorities that a source names itself: public data, so they stand in the resource, not in a Secret."""

from __future__ import annotations

from typing import Annotated

from preheat.errors import CheckpointConfigError
from preheat.limits import Limit

#: PEM text; a dozen certificates fit.
CABundle = Annotated[str, Limit(min_length=1, max_length=24 * 1024)]


def check_ca_bundle(where: str, pem: str | None) -> None:
    """Raise CheckpointConfigError when `pem` holds no certificate, or a private key; the text is not repeated."""
    if pem is None:
        return
    if "PRIVATE KEY-----" in pem:
        raise CheckpointConfigError(
            f"{where} holds a private key, which everybody can read there",
            remedy="Keep the certificates alone, and replace the key: it is no secret any more",
        )
    if "-----BEGIN CERTIFICATE-----" not in pem:
        raise CheckpointConfigError(
            f"{where} holds no certificate",
            remedy="Give the authority's certificate as text that begins with -----BEGIN",
        )
