"""Signs in the format of OpenSSF model signing, also what its library never would."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def sign_folder(folder: Path) -> None:
    """Write `model.sig` for every file in a folder."""
    files = sorted(path for path in folder.iterdir() if path.name != "model.sig")
    resources = [resource(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
    (folder / "model.sig").write_bytes(signed(statement(resources)))


def statement(resources: list[dict[str, str]], **changes: Any) -> dict[str, Any]:
    total = hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources)).hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": total}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": {"method": "files", "hash_type": "sha256"}, "resources": resources},
        **changes,
    }


def signed(payload: dict[str, Any], kind: str = "application/vnd.in-toto+json") -> bytes:
    raw = json.dumps(payload).encode()
    signature = KEY.sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(raw), raw), ec.ECDSA(hashes.SHA256()))
    envelope = {
        "payload": base64.b64encode(raw).decode(),
        "payloadType": kind,
        "signatures": [{"sig": base64.b64encode(signature).decode()}],
    }
    media = "application/vnd.dev.sigstore.bundle.v0.3+json"
    return json.dumps({"mediaType": media, "verificationMaterial": {}, "dsseEnvelope": envelope}).encode()


def resource(name: str = "a", digest: str = "00" * 32, algorithm: str = "sha256") -> dict[str, str]:
    return {"name": name, "digest": digest, "algorithm": algorithm}
