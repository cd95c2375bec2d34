"""Signed checkpoints: the OpenSSF model signing format, a Sigstore bundle that lists the files of a folder with their
digests.

Verified offline, against a key or authorities that the pipeline names; never against what the signature brings along.
The library that signs hashes local folders and takes 50 MiB; here only its format is read, and files are hashed as
their bytes pass.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

from preheat.blob import Blob, Patience
from preheat.errors import (
    CheckpointConfigError,
    CheckpointNotFoundError,
    UnsupportedFormatError,
    UntrustedError,
)
from preheat.joined_blob import files_of
from preheat.limits import Limit, check_limits
from preheat.stage import CheckpointSource

MAX_BYTES = 16 << 20  # of a signature: some 80,000 files

_MEDIA = "application/vnd.dev.sigstore.bundle."
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"


@dataclass(frozen=True)
class Signature:
    """Take only files that somebody whom you trust has signed with `model_signing`."""

    public_key: Annotated[str, Limit(max_length=2048, pattern=r"^\s*-----BEGIN PUBLIC KEY-----")] | None = None
    """Public key of the signer in PEM, on an elliptic curve (P-256, P-384 or P-521)."""

    authorities: Annotated[str, Limit(max_length=16384, pattern=r"^\s*-----BEGIN CERTIFICATE-----")] | None = None
    """Instead of a key: certificates in PEM, one of which is the signer's or vouches for it."""

    file: Annotated[str, Limit(min_length=1, max_length=253, pattern=r"^[^/]+$")] = "model.sig"
    """Name of the signature, which lies beside the checkpoint, or in its folder."""

    def __post_init__(self) -> None:
        """One kind of trust."""
        check_limits(self)
        if (self.public_key is None) == (self.authorities is None):
            raise CheckpointConfigError("signature: give publicKey or authorities, one of them")

    def of(self, checkpoint: Blob, source: CheckpointSource, patience: Patience) -> dict[str, str]:
        """SHA-256 by name of the checkpoint's files; raises UntrustedError for one that is not signed."""
        listed = self.digests(self._read(source, patience))
        files = [member.name for member in files_of(checkpoint)]
        if listed.keys() == {"."} and len(files) == 1:  # how a file is called that was signed without its folder
            return {files[0]: listed["."]}
        for name in files:
            if name not in listed:
                self._refuse(f"does not list {name!r:.120}; it lists {', '.join(sorted(listed)[:5])}")
        return {name: listed[name] for name in files}

    def _read(self, source: CheckpointSource, patience: Patience) -> bytes:
        try:
            blob = source.beside(self.file).open(patience)
        except CheckpointNotFoundError as error:
            raise UntrustedError(f"the checkpoint is not signed: {error.args[0]}", remedy="Sign it") from error
        try:
            if blob.size > MAX_BYTES:
                self._refuse(f"has {blob.size} bytes; {MAX_BYTES} are allowed")
            return blob.read(0, blob.size)
        finally:
            blob.close()

    def digests(self, bundle: bytes) -> dict[str, str]:
        """SHA-256 by name of every file that a signature vouches for; raises UntrustedError when it is not good."""
        try:
            document = json.loads(bundle)
            if not document["mediaType"].startswith(_MEDIA):
                self._refuse(f"is no Sigstore bundle but {document['mediaType']!r:.80}")
            envelope = document["dsseEnvelope"]
            payload = base64.b64decode(envelope["payload"], validate=True)
            [signature] = envelope["signatures"]
            found = base64.b64decode(signature["sig"], validate=True)
            self._verify(document["verificationMaterial"], envelope["payloadType"], payload, found)
            return self._listed(json.loads(payload))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._refuse(f"cannot be read ({type(error).__name__})")

    def _verify(self, material: Mapping[str, Any], kind: str, payload: bytes, signature: bytes) -> None:
        try:
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives import hashes
            from cryptography.hazmat.primitives.asymmetric import ec
        except ImportError:
            raise CheckpointConfigError(
                "a signature needs the package cryptography, which is not installed",
                remedy="Install preheat[signature], for pods into the loader's image",
            ) from None
        if kind != _PAYLOAD:
            self._refuse(f"signs {kind!r:.80} instead of {_PAYLOAD}")
        key = self._key(material)
        sizes = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.key_size not in sizes:
            raise CheckpointConfigError("signature: the key is not on one of the curves P-256, P-384 and P-521")
        signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
        try:
            key.verify(signature, signed, ec.ECDSA(sizes[key.curve.key_size]))
        except InvalidSignature:
            self._refuse("was not made with this key, or was changed since")

    def _key(self, material: Mapping[str, Any]) -> Any:
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        if self.public_key is None:
            return self._certified(material)
        try:
            return load_pem_public_key(self.public_key.encode())
        except ValueError as error:
            raise CheckpointConfigError(f"signature: publicKey is no key in PEM: {error}") from error

    def _certified(self, material: Mapping[str, Any]) -> Any:
        """The key of the signer's certificate, if one of the authorities vouches for it."""
        from cryptography import x509

        try:
            authorities = x509.load_pem_x509_certificates(str(self.authorities).encode())
        except ValueError as error:
            raise CheckpointConfigError(f"signature: authorities are no certificates in PEM: {error}") from error
        encoded = [base64.b64decode(each["rawBytes"]) for each in material["x509CertificateChain"]["certificates"]]
        try:
            signer = _vouched(authorities, encoded)
        except Exception as error:  # each thing that can be wrong with a certificate has a kind of its own there
            self._refuse(f"was made with a certificate that none of the authorities vouches for ({error})")
        if not _may_sign(signer):
            self._refuse("was made with a certificate that is not for signing")
        return signer.public_key()

    def _listed(self, statement: Mapping[str, Any]) -> dict[str, str]:
        predicate = statement["predicate"]
        if (statement["_type"], statement["predicateType"]) != (_STATEMENT, _PREDICATE):
            self._refuse(f"states {statement['predicateType']!r:.80} instead of {_PREDICATE}")
        method = predicate["serialization"]["method"]
        algorithms = {each["algorithm"] for each in predicate["resources"]}
        if method != "files" or not algorithms <= {"sha256"}:
            said = f"{method}, {', '.join(sorted(map(str, algorithms)))}"
            raise UnsupportedFormatError(
                f"the signature {self.file} lists {said:.80} instead of files and their SHA-256",
                remedy="Sign with the defaults of model_signing",
            )
        found = {str(each["name"]): str(each["digest"]) for each in predicate["resources"]}
        [subject] = statement["subject"]
        digest = hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in predicate["resources"]))
        if len(found) != len(predicate["resources"]) or subject["digest"]["sha256"] != digest.hexdigest():
            self._refuse("contradicts itself")
        return found

    def _refuse(self, why: str) -> NoReturn:
        raise UntrustedError(
            f"the signature {self.file} {why}", remedy="Sign the checkpoint again, or correct the signature's key"
        )


def _vouched(authorities: list[Any], encoded: list[bytes]) -> Any:
    """The first of some certificates in DER, if the others lead from it to an authority."""
    from cryptography import x509
    from cryptography.x509.verification import ExtensionPolicy, PolicyBuilder, Store

    signer, *between = [x509.load_der_x509_certificate(each) for each in encoded]
    # As the library that signs: without a timestamp nobody can tell whether a certificate was valid when it signed.
    policy = PolicyBuilder().store(Store(authorities)).time(signer.not_valid_before_utc)
    policy = policy.extension_policies(
        ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=ExtensionPolicy.permit_all()
    )
    policy.build_client_verifier().verify(signer, between)
    return signer


def _may_sign(certificate: Any) -> bool:
    from cryptography import x509

    found = {type(extension.value): extension.value for extension in certificate.extensions}
    usage, extended = found.get(x509.KeyUsage), found.get(x509.ExtendedKeyUsage)
    return bool(usage and usage.digital_signature) or bool(
        extended and x509.oid.ExtendedKeyUsageOID.CODE_SIGNING in extended
    )
