from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rendered_yaml import documents

from preheat.catalog import built_in
from preheat.construction import camel_case
from preheat_operator import crd

ROOT = Path(__file__).parents[2]
SPEC = crd.render()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
STAGES = SPEC["properties"]["stages"]["items"]["properties"]


def schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from schemas(inner, f"{path}.{name}")
    if "items" in schema:
        yield from schemas(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from schemas(schema["additionalProperties"], f"{path}.*[]")


@pytest.mark.parametrize(
    ("path", "text"),
    [(crd.PLAIN_FILE, crd.plain_text), (crd.CHART_FILE, crd.chart_text)],
    ids=["plain", "chart"],
)
def test_the_committed_file_is_what_the_stages_say(path: Path, text: Callable[[], str]) -> None:
    assert (ROOT / path).read_text() == text(), "the stages have changed: run `make crds` and commit what it writes"


def test_writing_creates_both_files(tmp_path: Path) -> None:
    assert [path.read_text() for path in crd.write(tmp_path)] == [crd.plain_text(), crd.chart_text()]


def test_the_charts_copy_holds_the_same_resource() -> None:
    lines = [line for line in crd.chart_text().splitlines() if "{{" not in line]
    [copy] = documents("\n".join(lines))
    assert copy["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert [copy] == documents(crd.plain_text()) == [crd.render()]


def test_every_component_of_ours_is_a_stage_with_its_own_text() -> None:
    assert {name: schema["description"] for name, schema in STAGES.items()} == {
        camel_case(name): component.__doc__ for name, component in built_in().items()
    }


def test_every_field_explains_itself() -> None:
    silent = [path for path, schema in schemas(SPEC) if "description" not in schema and not path.endswith("[]")]
    assert silent == []


def test_every_string_and_list_is_bounded() -> None:
    unbounded = [
        path
        for path, schema in schemas(crd.render()["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        if (schema.get("type") == "string" and not {"maxLength", "enum"} & set(schema))
        or (schema.get("type") == "array" and "maxItems" not in schema)
        or ("additionalProperties" in schema and "maxProperties" not in schema)
    ]
    assert unbounded == [".apiVersion", ".kind"]  # the API server's own


def test_no_reference_leaves_the_namespace() -> None:
    """Of a Secret, a claim or an account elsewhere, the operator would be a confused deputy."""
    assert [path for path, _ in schemas(SPEC) if "namespace" in path.lower()] == []


def test_the_schema_is_structural() -> None:
    for path, schema in schemas(SPEC):
        unfit = {"$ref", "$defs", "title", "anyOf", "const", "nullable"} & set(schema)
        assert not {"properties", "additionalProperties"} <= set(schema), path
        assert unfit <= ({"anyOf"} if schema.get("x-kubernetes-int-or-string") else set()), path


def test_only_settings_of_the_whole_run_store_their_default() -> None:
    stored = {path: schema["default"] for path, schema in schemas(SPEC) if "default" in schema}
    assert stored == {".onFailure": "Fail", ".continueOnError": False, ".maxRetries": 3, ".timeoutSeconds": 300}


def test_a_default_that_is_not_stored_is_told() -> None:
    assert STAGES["weightsOnly"]["properties"]["strict"]["description"].endswith("Default: true.")
