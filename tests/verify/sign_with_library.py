"""Writes the signatures in `signed` anew, with the library whose format they are in; the two checkpoints stay.

Needs `model-signing` 1.1.1 and `pyopenssl`, which it imports and does not declare; neither is a dependency of Preheat.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from model_signing import hashing, signing

FOLDER = Path(__file__).parent / "signed"
BEGAN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def main() -> None:
    files = sorted(FOLDER.glob("*.safetensors"))
    for old in FOLDER.iterdir():
        if old not in files:
            old.unlink()
    scratch = Path(FOLDER.parent) / ".keys"
    scratch.mkdir()
    try:
        keys = {name: key(scratch, name, curve) for name, curve in (("p256", ec.SECP256R1()), ("p384", ec.SECP384R1()))}
        for name in keys:
            config = signing.Config().use_elliptic_key_signer(private_key=scratch / f"{name}.pem")
            config.set_hashing_config(hashing.Config().set_ignored_paths(paths=ignored(files)))
            config.sign(FOLDER, FOLDER / f"{name}.sig")
        config.sign(files[0], FOLDER / "one.sig")
        sharded = hashing.Config().use_shard_serialization().set_ignored_paths(paths=ignored(files))
        config.set_hashing_config(sharded).sign(FOLDER, FOLDER / "shards.sig")
        certified(scratch, files)
    finally:
        for path in scratch.iterdir():
            path.unlink()
        scratch.rmdir()


def ignored(files: list[Path]) -> list[Path]:
    return [path for path in FOLDER.iterdir() if path not in files]


def key(scratch: Path, name: str, curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
    made = ec.generate_private_key(curve)
    (scratch / f"{name}.pem").write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (FOLDER / f"{name}.pem").write_bytes(public)
    return made


def certified(scratch: Path, files: list[Path]) -> None:
    root_key, middle_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    signer_key = key(scratch, "signer", ec.SECP256R1())
    (FOLDER / "signer.pem").unlink()
    root = certificate("root", root_key, "root", root_key, authority=True)
    middle = certificate("middle", middle_key, "root", root_key, authority=True)
    signer = certificate("signer", signer_key, "middle", middle_key, authority=False)
    for name, each in (("root", root), ("middle", middle), ("signer-certificate", signer)):
        (scratch / f"{name}.crt").write_bytes(each.public_bytes(Encoding.PEM))
    (FOLDER / "authority.crt").write_bytes(root.public_bytes(Encoding.PEM))
    config = signing.Config().use_certificate_signer(
        private_key=scratch / "signer.pem",
        signing_certificate=scratch / "signer-certificate.crt",
        certificate_chain=[scratch / "middle.crt"],
    )
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=ignored(files)))
    config.sign(FOLDER, FOLDER / "certified.sig")


def certificate(
    name: str, own: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey, authority: bool
) -> x509.Certificate:
    usages = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    ) | {"decipher_only": False, "crl_sign": authority, "key_cert_sign": authority, "digital_signature": not authority}
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGAN)
        .not_valid_after(BEGAN + datetime.timedelta(days=90 if not authority else 9000))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usages), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    )
    return builder.sign(by, hashes.SHA256())


if __name__ == "__main__":
    main()
