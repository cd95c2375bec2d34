"""Our own certificate authority: what a Secret should hold, given what it holds and what time it is.

ECDSA P-256. The authority lives for years and is kept; the serving certificate is renewed when a third of its life is
left. A new authority is published together with the one before it, whose certificates are still being served.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from preheat_operator.trust import certificates, issued_by, names_of

AUTHORITY_LIFE = timedelta(days=3650)
CERTIFICATE_LIFE = timedelta(days=90)
# Clocks of a cluster differ.
_BACKDATED = timedelta(hours=1)


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def load(cls, certificate: bytes | None, key: bytes | None) -> Identity | None:
        """The identity in two PEM texts; None when they are none, or do not belong together."""
        try:
            first = x509.load_pem_x509_certificates(certificate or b"")[0]
            private = serialization.load_pem_private_key(key or b"", None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return None
        if not isinstance(private, ec.EllipticCurvePrivateKey) or first.public_key() != private.public_key():
            return None
        return cls(first, private)

    def certificate_pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        """The private key in PEM, unencrypted."""
        form = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def renewed(stored: Mapping[str, bytes], names: Sequence[str], now: datetime) -> dict[str, bytes]:
    """What the Secret should hold: `stored` as long as it serves, else with what is missing or old made anew.

    Keys: ca.crt (newest first), ca.key, tls.crt, tls.key. `names` are the DNS names of the Service, `now` is in UTC.
    """
    wanted = dict(stored)
    authority = Identity.load(stored.get("ca.crt"), stored.get("ca.key"))
    if authority is None or _left(authority, now) < AUTHORITY_LIFE / 10:
        authority = _make_authority(now)
        trusted = [authority.certificate, *_unexpired(stored.get("ca.crt"), now)]
        wanted["ca.crt"] = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in trusted)
        wanted["ca.key"] = authority.key_pem()
    serving = Identity.load(stored.get("tls.crt"), stored.get("tls.key"))
    if serving is None or not _serves(serving, authority, names, now):
        serving = _issue(authority, names, now)
        wanted |= {"tls.crt": serving.certificate_pem(), "tls.key": serving.key_pem()}
    return wanted


def _serves(serving: Identity, authority: Identity, names: Sequence[str], now: datetime) -> bool:
    return (
        set(names_of(serving.certificate)) == set(names)
        and issued_by(serving.certificate, authority.certificate)
        and serving.certificate.not_valid_before_utc <= now
        and _left(serving, now) > CERTIFICATE_LIFE / 3
    )


def _make_authority(now: datetime) -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Preheat webhook authority")
    builder = _builder(name, name, key.public_key(), now, AUTHORITY_LIFE).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return Identity(builder.sign(key, hashes.SHA256()), key)


def _issue(authority: Identity, names: Sequence[str], now: datetime) -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.SubjectKeyIdentifier.from_public_key(authority.key.public_key())
    builder = _builder(_name("Preheat webhook"), authority.certificate.subject, key.public_key(), now, CERTIFICATE_LIFE)
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), False),
    ):
        builder = builder.add_extension(extension, critical)
    return Identity(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number(), now - _BACKDATED, now + life)
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _left(identity: Identity, now: datetime) -> timedelta:
    return identity.certificate.not_valid_after_utc - now


def _unexpired(bundle: bytes | None, now: datetime) -> Iterable[x509.Certificate]:
    return (each for each in certificates(bundle) if each.not_valid_after_utc > now)
