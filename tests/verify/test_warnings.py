"""Checks that only warn: never silent, never in the way."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import saved
from loader.loader_process import bundles, load
from verify.signing import PUBLIC

from preheat.bundle.manifest import Manifest
from preheat.checks import CHECKS, KEPT, Checks, Findings
from preheat.context import CheckpointContext
from preheat.errors import CheckpointIncompatibleError, CheckpointValidationError
from preheat.file_blob import FileBlob
from preheat.formats import read_index
from preheat.pipeline import CheckpointPipeline
from preheat.spec import parse
from preheat.verbs.forecast import plan_pipeline
from preheat.verbs.verification import verify_checkpoint

WRONG: dict[str, dict[str, Any]] = {
    "sha256": {"sha256": "0" * 64},
    "md5": {"md5": "0" * 32},
    "crc64nvme": {"crc64nvme": "0" * 16},
    "crc32": {},
    "finite": {},
    "expect": {"expect": {"tensors": 7}},
    "signature": {"signature": {"publicKey": PUBLIC}},
}


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A checkpoint with NaN in one tensor, infinity in one that is strided, and a flipped bit in a third."""
    strided = torch.randn(40, 50)
    strided[3, 7] = math.inf
    weights = {"nan": torch.full((3000,), math.nan), "inf": strided.t(), "flipped": torch.ones(500)}
    path = tmp_path / "x.ckpt"
    path.write_bytes(saved(weights))
    blob = FileBlob(path)
    start = read_index(blob).tensors["flipped"].start
    blob.close()
    content = bytearray(path.read_bytes())
    content[start + 1000] ^= 1
    path.write_bytes(content)
    return path


def stages(path: Path, **verify: Any) -> list[dict[str, Any]]:
    return [{"local": {"path": str(path)}}, {"verify": verify}, {"weightsOnly": {}}]


@pytest.mark.parametrize("check", WRONG)
def test_each_check_fails_unless_it_only_warns(check: str, damaged: Path, tmp_path: Path) -> None:
    others = {"crc32": check == "crc32", "finite": check == "finite", **WRONG[check]}
    assert load(stages(damaged, **others), tmp_path / "volume").code != 0
    assert bundles(tmp_path / "volume") == []
    warned = load(stages(damaged, **others, warnOnly=[check]), tmp_path / "volume")
    assert warned.code == 0, warned.log
    [bundle] = bundles(tmp_path / "volume")
    found = Manifest.from_json((bundle / "manifest.json").read_text())
    assert found.checks.warn_only == (check,)
    assert found.warnings
    assert warned.message["warnings"] == list(found.warnings)
    for warning in found.warnings:
        assert f"warning: {warning}" in warned.log


def test_every_damaged_tensor_is_named_once(damaged: Path, tmp_path: Path) -> None:
    verify = {"warnOnly": ["finite", "crc32"]}
    ended = load(stages(damaged, **verify), tmp_path / "volume")
    crc, *finite = ended.message["warnings"]
    assert "tensor 'flipped' is corrupt" in crc
    assert "every value is finite" not in ended.log
    assert "finite values, 3 warnings" in ended.log
    assert finite == ["tensor 'inf' holds NaN or infinity", "tensor 'nan' holds NaN or infinity"]


def test_a_pod_that_finds_the_bundle_hears_the_warnings_too(damaged: Path, tmp_path: Path) -> None:
    verify = {"crc32": False, "warnOnly": ["finite"]}
    first = load(stages(damaged, **verify), tmp_path / "volume")
    second = load(stages(damaged, **verify), tmp_path / "volume", pod="6f1c0f4e-0000-4000-8000-000000000002")
    assert second.message["outcome"] == "reused"
    assert second.message["warnings"] == first.message["warnings"]
    assert "warning, from when the bundle was made: tensor 'nan' holds NaN" in second.log


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_values_that_a_cast_makes_infinite_are_a_warning_too(dtype: str, tmp_path: Path) -> None:
    weights = {
        "big": torch.full((700,), 1e30),
        "nan": torch.full((9,), math.nan),
        "turned": torch.full((9, 9), 1e30).t(),
    }
    (tmp_path / "x.ckpt").write_bytes(saved(weights))
    source, verify, strategy = stages(tmp_path / "x.ckpt", warnOnly=["finite"])
    ended = load([source, verify, {"convert": {"dtype": dtype}}, strategy], tmp_path / "volume")
    assert ended.code == 0, ended.log
    said = " ".join(ended.message["warnings"])
    assert "tensor 'nan' holds NaN" in said
    assert ("tensor 'big' holds values that F16 cannot" in said) == (dtype == "float16")
    assert ("tensor 'turned' holds values that F16 cannot" in said) == (dtype == "float16")


def test_verify_and_plan_tell_of_them(damaged: Path) -> None:
    found = verify_checkpoint(damaged, warn_only=["finite", "crc32"])
    assert len(found.warnings) == 3
    assert found.to_json()["warnings"] == list(found.warnings)
    with pytest.raises(CheckpointValidationError):
        verify_checkpoint(damaged, warn_only=["finite"])
    spec = parse({"stages": stages(damaged, expect={"tensors": 4}, warnOnly=["expect"])})
    assert "it has 3 tensors" in plan_pipeline(spec).warnings[0]


def test_each_stage_has_its_own_policy_of_what_is_expected(damaged: Path) -> None:
    source, lenient, strategy = stages(damaged, expect={"tensors": 4}, warnOnly=["expect"])
    later = {"verify": {"finite": False}}
    assert plan_pipeline(parse({"stages": [source, lenient, later, strategy]})).warnings
    strict = {"verify": {"expect": {"tensors": 4}}}
    with pytest.raises(CheckpointIncompatibleError):
        plan_pipeline(parse({"stages": [source, strict, lenient, strategy]}))


def test_in_one_process_they_are_in_the_metadata(damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = torch.nn.ParameterDict({"nan": torch.zeros(3000), "inf": torch.zeros(50, 40), "flipped": torch.zeros(500)})
    wanted = stages(damaged, expect={"tensors": 4}, md5="0" * 32, warnOnly=["crc32", "finite", "expect", "md5"])
    with caplog.at_level(logging.WARNING, "preheat"):
        pipeline = CheckpointPipeline(stages=wanted, async_execution=False)
        warnings = pipeline.execute(CheckpointContext(model=model)).metadata["warnings"]
    for said in ("it has 3 tensors", "has MD5", "CRC-32", "'nan' holds NaN", "'inf' holds NaN"):
        assert any(said in warning for warning in warnings), said
        assert said in caplog.text


def test_thousands_of_findings_are_kept_as_a_few_and_a_count() -> None:
    findings = Findings(["finite"])
    for number in range(1000):
        findings.add("finite", CheckpointValidationError(f"tensor {number:04}"))
        findings.add("finite", CheckpointValidationError(f"tensor {number:04}"))
    assert findings.warnings[:2] == ("tensor 0000", "tensor 0001")
    assert len(findings.warnings) == KEPT + 1
    assert findings.warnings[-1] == f"finite: {1000 - KEPT} more"
    with pytest.raises(CheckpointValidationError):
        findings.add("crc32", CheckpointValidationError("x"))


def test_what_was_checked_survives_the_manifest() -> None:
    checks = Checks("a", False, True, "b", "c", "d", CHECKS, {"model.safetensors": "e"})
    assert Checks.from_json(json.loads(json.dumps(checks.to_json()))) == checks
    assert Checks().to_json() == {"sha256": None, "crc32": True, "finite": False}
