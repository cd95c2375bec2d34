"""Plays cert-manager in tests: authorities, intermediate ones too, that issue serving certificates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Issuer:
    """An authority; below another one when that is given."""

    def __init__(self, above: Issuer | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name(
            [x509.NameAttribute(x509.NameOID.COMMON_NAME, f"authority {x509.random_serial_number()}")]
        )
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = _builder(self.name, self.key, above.name if above else self.name).add_extension(usage, critical=True)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = builder.sign(above.key if above else self.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *names: str, key: Key | None = None, days: float = 90) -> dict[str, bytes]:
        """A Secret of type kubernetes.io/tls, as cert-manager writes it: ca.crt, tls.crt, tls.key."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = _builder(x509.Name([]), key, self.name, days).add_extension(alternative, critical=True)
        certificate = builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        form = serialization.PrivateFormat.TraditionalOpenSSL  # cert-manager's default: PKCS#1 and SEC 1
        private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        return {"ca.crt": self.pem, "tls.crt": certificate, "tls.key": private}


def _builder(subject: x509.Name, key: Key, issuer: x509.Name, days: float = 90) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), now - timedelta(hours=1), now + timedelta(days)
    )
