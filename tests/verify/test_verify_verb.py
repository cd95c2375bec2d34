"""`preheat verify` asks for what the stage can ask for."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from preheat.cli import app
from preheat.verbs.digest import calculate_checksum

SIGNED = Path(__file__).parent / "signed"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save({"a.weight": torch.randn(30, 20), "scale": torch.tensor(math.inf)}, tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


def answer(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["verify", *map(str, arguments), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_every_option_reaches_its_check(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    crc = calculate_checksum(checkpoint, "crc64nvme")
    digests = ["--md5", hashlib.md5(content).hexdigest().upper(), "--crc64nvme", crc]
    contents = ["--tensors", 2, "--parameters", 601, "--name", r"^a\.", "--name", "scale"]
    shapes = ["--shape", "a.weight=30x20", "--shape", "scale="]
    found = answer(checkpoint, *digests, *contents, *shapes, "--no-finite")
    assert (found["checks"]["crc64nvme"], found["warnings"]) == (crc, [])


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        (["--tensors", 3], 40, "it has 2 tensors, expected are 3"),
        (["--parameters", 3], 40, "it has 601 parameters"),
        (["--name", "^b"], 40, "no name matches"),
        (["--shape", "a.weight=20x30"], 40, "has shape [30, 20], expected is [20, 30]"),
        (["--shape", "a.weight"], 2, "is no shape"),
        (["--md5", "0" * 32], 30, "has MD5"),
        (["--etag", "x"], 2, "has no ETag"),
        (["--warn-only", "finit"], 2, "'finit' is none of"),
        (["--public-key", "no/such.pem"], 2, "no/such.pem cannot be read"),
        (["--public-key", SIGNED / "p256.pem"], 31, "the checkpoint is not signed"),
    ],
)
def test_a_wrong_answer_says_why(options: list[object], code: int, why: str, checkpoint: Path) -> None:
    assert why in answer(checkpoint, "--no-finite", *options, code=code)["message"]


def test_a_warning_is_shown_and_is_no_failure(checkpoint: Path) -> None:
    assert answer(checkpoint, code=30)["reason"] == "Corrupt"
    assert answer(checkpoint, "--warn-only", "finite")["warnings"] == ["tensor 'scale' holds NaN or infinity"]
    shown = CliRunner().invoke(app, ["verify", str(checkpoint), "--warn-only", "finite"], env={"COLUMNS": "200"})
    assert "tensor 'scale' holds NaN or infinity" in shown.stdout
    assert "verified" in shown.stdout


def test_a_signature_is_verified_by_key_or_by_authority() -> None:
    model = SIGNED / "model.safetensors"
    for trust, name in (("--public-key", "p256"), ("--authorities", "certified")):
        pem = SIGNED / ("p256.pem" if name == "p256" else "authority.crt")
        assert list(answer(model, trust, pem, "--signature", f"{name}.sig")["checks"]["signed"]) == [model.name]
    assert answer(model, "--public-key", SIGNED / "p384.pem", "--signature", "p256.sig", code=31)
