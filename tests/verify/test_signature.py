"""Signatures of `model_signing` itself, made by `sign_with_library.py` beside this file, and changed ones."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from verify.signing import KEY, PUBLIC, resource, signed, statement

from preheat.errors import CheckpointConfigError, CheckpointError, UnsupportedFormatError, UntrustedError
from preheat.signature import Signature

TRUST = Signature(public_key=PUBLIC)
SIGNED = Path(__file__).parent / "signed"
DIGESTS = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SIGNED.glob("*.safetensors")}


def text(name: str) -> str:
    return (SIGNED / name).read_text()


def content(name: str) -> bytes:
    return (SIGNED / name).read_bytes()


def stranger() -> str:
    """An authority of the same name as the real one."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])
    began = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key())
    builder = builder.serial_number(1).not_valid_before(began).not_valid_after(began + timedelta(days=9000))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize("key", ["p256", "p384"])
def test_what_the_library_signs_with_a_key_is_listed(key: str) -> None:
    assert Signature(public_key=text(f"{key}.pem")).digests(content(f"{key}.sig")) == DIGESTS


def test_what_the_library_signs_with_a_certificate_is_listed_although_that_has_expired() -> None:
    assert Signature(authorities=text("authority.crt")).digests(content("certified.sig")) == DIGESTS


def test_a_file_that_was_signed_alone_has_no_name() -> None:
    found = Signature(public_key=text("p384.pem")).digests(content("one.sig"))
    assert found == {".": DIGESTS["model.safetensors"]}


def test_another_key_is_not_trusted() -> None:
    with pytest.raises(UntrustedError, match=r"model\.sig was not made with this key"):
        TRUST.digests(content("p256.sig"))
    with pytest.raises(UntrustedError, match="was not made with this key"):
        Signature(public_key=text("p256.pem")).digests(content("p384.sig"))


def test_a_certificate_of_somebody_else_is_not_trusted() -> None:
    document = json.loads(content("certified.sig"))
    chain = document["verificationMaterial"]["x509CertificateChain"]["certificates"]
    with pytest.raises(UntrustedError, match="none of the authorities vouches for"):
        Signature(authorities=stranger()).digests(content("certified.sig"))
    del chain[1]  # the one in the middle
    with pytest.raises(UntrustedError, match="none of the authorities vouches for"):
        Signature(authorities=text("authority.crt")).digests(json.dumps(document).encode())


def test_a_certificate_that_may_issue_but_not_sign_is_refused() -> None:
    document = json.loads(content("certified.sig"))
    chain = document["verificationMaterial"]["x509CertificateChain"]["certificates"]
    chain.reverse()
    with pytest.raises(UntrustedError):
        Signature(authorities=text("authority.crt")).digests(json.dumps(document).encode())


@pytest.mark.parametrize("name", ["p256.sig", "certified.sig"])
@given(data=st.data())
def test_a_changed_signature_is_never_believed(name: str, data: st.DataObject) -> None:
    good = content(name)
    with_key = name == "p256.sig"
    trust = Signature(public_key=text("p256.pem")) if with_key else Signature(authorities=text("authority.crt"))
    position = data.draw(st.integers(0, len(good) - 1))
    changed = good[:position] + bytes([good[position] ^ data.draw(st.integers(1, 255))]) + good[position + 1 :]
    try:
        assert trust.digests(changed) == DIGESTS
    except CheckpointError:
        return


@given(data=st.data())
def test_a_certificate_that_says_something_else_is_never_believed(data: st.DataObject) -> None:
    document = json.loads(content("certified.sig"))
    certificate = data.draw(st.sampled_from(document["verificationMaterial"]["x509CertificateChain"]["certificates"]))
    good = base64.b64decode(certificate["rawBytes"])
    position = data.draw(st.integers(0, len(good) - 1))
    changed = good[:position] + bytes([good[position] ^ data.draw(st.integers(1, 255))]) + good[position + 1 :]
    certificate["rawBytes"] = base64.b64encode(changed).decode()
    try:
        Signature(authorities=text("authority.crt")).digests(json.dumps(document).encode())
    except UntrustedError:
        return
    # The numbers of a signature can be written down in more than one way; what they vouch for must be the same.
    said = [x509.load_der_x509_certificate(each).tbs_certificate_bytes for each in (good, changed)]
    assert said[0] == said[1]


@given(st.binary(max_size=300) | st.recursive(st.none() | st.text(), st.lists).map(lambda x: json.dumps(x).encode()))
def test_what_is_no_signature_is_refused_in_one_way(junk: bytes) -> None:
    with pytest.raises(UntrustedError, match="cannot be read"):
        TRUST.digests(junk)


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (statement([resource()], predicateType="https://slsa.dev/provenance/v1"), "instead of https://model_signing"),
        (statement([resource()], subject=[{"name": "m", "digest": {"sha256": "00"}}]), "contradicts itself"),
        (statement([resource(), resource()]), "contradicts itself"),
        ({"_type": "https://in-toto.io/Statement/v1"}, "cannot be read"),
    ],
)
def test_a_good_signature_of_something_else_is_refused(payload: dict[str, Any], why: str) -> None:
    with pytest.raises(UntrustedError, match=why):
        TRUST.digests(signed(payload))


def test_another_kind_of_payload_is_refused() -> None:
    with pytest.raises(UntrustedError, match="signs 'text/plain'"):
        TRUST.digests(signed(statement([resource()]), kind="text/plain"))


def test_what_cannot_be_compared_while_bytes_pass_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedFormatError, match="lists shards"):
        Signature(public_key=text("p384.pem")).digests(content("shards.sig"))
    with pytest.raises(UnsupportedFormatError, match="lists files, blake3"):
        TRUST.digests(signed(statement([resource(algorithm="blake3")])))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({}, "publicKey or authorities"),
        ({"public_key": text("p256.pem"), "authorities": text("authority.crt")}, "one of them"),
        ({"public_key": "secret"}, "does not match"),
        ({"public_key": text("p256.pem"), "file": "../model.sig"}, "does not match"),
    ],
)
def test_a_wrong_signature_stage_says_why(arguments: dict[str, str], why: str) -> None:
    with pytest.raises(CheckpointConfigError, match=why):
        Signature(**arguments)


def test_a_key_that_is_none_is_the_pipelines_fault() -> None:
    key, certificate = (
        f"-----BEGIN {what}-----\nAAAA\n-----END {what}-----\n" for what in ("PUBLIC KEY", "CERTIFICATE")
    )
    with pytest.raises(CheckpointConfigError, match="publicKey is no key in PEM"):
        Signature(public_key=key).digests(content("p256.sig"))
    with pytest.raises(CheckpointConfigError, match="authorities are no certificates"):
        Signature(authorities=certificate).digests(content("certified.sig"))
