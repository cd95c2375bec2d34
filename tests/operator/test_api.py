from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from preheat.errors import CheckpointConfigError
from preheat_operator.api import GROUP, KIND, VERSION, Pipeline, Status

CASES = Path(__file__).parent / "cases"
INVALID = yaml.safe_load((CASES / "invalid.yaml").read_text())
VALID = yaml.safe_load((CASES / "valid.yaml").read_text())


def resource(case: dict[str, Any]) -> dict[str, Any]:
    spec = dict(case["spec"])
    if repeat := case.get("repeat"):
        spec["stages"] = spec["stages"] + [repeat["stage"]] * repeat["times"]
    metadata = case.get("resource", {}).get("metadata", {"name": "case"})
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "metadata": metadata, "spec": spec}


@pytest.fixture
def apply_dry(installed_crd: Any) -> Any:
    """Applies a manifest to the API server, which checks it and stores nothing."""

    def apply(manifest: dict[str, Any]) -> Any:
        flags = ("--dry-run=server", "--validate=strict", "-f", "-")
        return installed_crd.kubectl("create", *flags, input=yaml.safe_dump(manifest), check=False)

    return apply


@pytest.mark.parametrize("case", [pytest.param(c, id=c["name"]) for c in INVALID if "says" in c or "ours" in c])
def test_an_invalid_resource_is_refused_with_words_that_help(case: dict[str, Any]) -> None:
    with pytest.raises(CheckpointConfigError) as refusal:
        Pipeline.parse(resource(case))
    missing = [words for words in case.get("says", []) + case.get("ours", []) if words not in str(refusal.value)]
    assert missing == [], str(refusal.value)


@pytest.mark.parametrize("case", [pytest.param(c, id=c["name"]) for c in VALID])
def test_a_valid_resource_is_parsed(case: dict[str, Any]) -> None:
    pipeline = Pipeline.parse(resource(case))
    assert len(pipeline.parsed.stages) == len(case["spec"]["stages"])
    assert pipeline.spec == case["spec"]


@pytest.mark.cluster
@pytest.mark.parametrize("case", [pytest.param(c, id=c["name"]) for c in INVALID if "says" in c or "server" in c])
def test_the_api_server_refuses_an_invalid_resource_with_words_that_help(apply_dry: Any, case: dict[str, Any]) -> None:
    answer = apply_dry(resource(case))
    assert "created" not in answer
    missing = [words for words in case.get("says", []) + case.get("server", []) if words not in answer]
    assert missing == [], answer


@pytest.mark.cluster
@pytest.mark.parametrize("case", [pytest.param(c, id=c["name"]) for c in VALID])
def test_the_api_server_accepts_a_valid_resource(apply_dry: Any, case: dict[str, Any]) -> None:
    answer = apply_dry(resource(case))
    assert "created (server dry run)" in answer


def test_a_password_is_not_repeated_in_the_refusal() -> None:
    case = next(case for case in INVALID if case["name"] == "a password in the URL")
    with pytest.raises(CheckpointConfigError) as refusal:
        Pipeline.parse(resource(case))
    assert "someone" not in str(refusal.value)


@pytest.mark.parametrize("spec", [None, [], "s3", {}, {"stages": "s3"}, {"stages": ["s3"]}, {"stages": [None]}, 5])
def test_what_is_no_spec_at_all_is_refused_and_nothing_worse(spec: Any) -> None:
    with pytest.raises(CheckpointConfigError, match="spec"):
        Pipeline.parse({"metadata": {"name": "case"}, "spec": spec})


def test_a_stage_without_a_value_says_how_to_take_its_defaults() -> None:
    with pytest.raises(CheckpointConfigError, match=r"verify: \{\}"):
        Pipeline.parse(resource({"spec": {"stages": [{"s3": {"bucket": "b", "key": "k"}}, {"verify": None}]}}))


def test_a_pipeline_knows_which_resource_it_was_made_from() -> None:
    manifest = resource(VALID[0])
    manifest["metadata"] = {"name": "finetune", "namespace": "team-a", "uid": "u-1", "generation": 4}
    pipeline = Pipeline.parse(manifest)
    assert (pipeline.name, pipeline.namespace, pipeline.uid, pipeline.generation) == ("finetune", "team-a", "u-1", 4)


def test_a_status_that_the_operator_writes_fits_the_schema() -> None:
    Status.model_validate(
        {
            "observedGeneration": 1,
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Loaded",
                    "message": "loaded by 2 pods",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ],
            "source": {"uri": "s3://b/k", "version": "etag:1", "sizeBytes": 5, "format": "torch-zip", "tensors": 3},
            "pods": {"matched": 3, "injected": 2, "loading": 0, "loaded": 1, "continued": 1, "failed": 0, "missed": 1},
            "failures": [{"pod": "p", "time": "2026-01-01T00:00:00Z", "reason": "NotFound", "message": "m"}],
        }
    )
