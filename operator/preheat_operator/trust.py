"""Whether an API server that trusts these authorities accepts a certificate of this address: as Go verifies it."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature


def certificates(text: bytes | None) -> list[x509.Certificate]:
    """The certificates in a PEM text, none when it is none."""
    try:
        return x509.load_pem_x509_certificates(text or b"")
    except ValueError:
        return []


def trusts(bundle: bytes, certificate: x509.Certificate, between: Sequence[x509.Certificate] = ()) -> bool:
    """Whether a way leads from the certificate to one of the bundle's, over those that are sent along."""
    trusted = certificates(bundle)
    if certificate in trusted or any(issued_by(certificate, authority) for authority in trusted):
        return True
    return any(
        issued_by(certificate, each) and trusts(bundle, each, [other for other in between if other != each])
        for each in between
    )


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether this authority signed the certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def names_of(certificate: x509.Certificate) -> list[str]:
    """The DNS names that the certificate is for."""
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return alternative.get_values_for_type(x509.DNSName)


def covers(names: Sequence[str], address: str) -> bool:
    """Whether one of the names is this address, or has an asterisk in place of its first label."""
    anything = "*." + address.partition(".")[2]
    return any(name.lower() in (address, anything) for name in names)
