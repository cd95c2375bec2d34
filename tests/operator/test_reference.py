from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from preheat.catalog import built_in
from preheat.construction import camel_case
from preheat.stage import CheckpointSource, LoadingStrategy, ModelModifier
from preheat_operator import crd, reference
from preheat_operator.api import KIND, Pipeline
from preheat_operator.injection import inject
from preheat_operator.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = reference.text()
SPEC = crd.render()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
STAGES = SPEC["properties"]["stages"]["items"]["properties"]
SOURCE = {"s3": {"bucket": "my-models", "key": "model-v1.ckpt"}}


def paths(schema: dict[str, Any], above: str = "") -> Iterator[str]:
    """Every field that the API server knows below `schema`, but for stages and places: those are asked one by one."""
    for name, inner in schema.get("properties", {}).items():
        yield above + name
        for path, each in ((f"{above}{name}.", inner), (f"{above}{name}[].", inner.get("items", {}))):
            if each.get("maxProperties") != 1:
                yield from paths(each, path)


def section(title: str) -> str:
    found = re.search(rf"^###? {re.escape(title)}\n.*?(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"the page has no section {title}"
    return found[0]


def named(text: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def test_the_committed_page_is_what_the_models_say() -> None:
    assert (ROOT / reference.FILE).read_text() == PAGE, "the models have changed: run `make crds` and commit it"


def test_it_is_written_below_the_root(tmp_path: Path) -> None:
    assert reference.write(tmp_path).read_text() == PAGE
    assert reference.write(tmp_path) == tmp_path / "docs" / "reference.md"


def test_every_field_around_the_stages_has_a_row() -> None:
    assert named(section("spec")) == list(paths(SPEC))


def test_every_field_of_the_status_has_a_row() -> None:
    status = crd.render()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    assert named(section("status")) == list(paths(status))


@pytest.mark.parametrize("name", STAGES)
def test_every_field_of_a_stage_has_a_row(name: str) -> None:
    fields = section(name).partition("| key of the Secret")[0]
    assert named(fields) == list(paths(STAGES[name]))


@pytest.mark.parametrize("component", built_in().items(), ids=lambda item: item[0])
def test_the_example_of_a_stage_is_accepted_where_such_a_stage_stands(component: tuple[str, type]) -> None:
    name, kind = component
    stage = yaml.safe_load(kind.example)  # type: ignore[attr-defined]
    around = [] if issubclass(kind, CheckpointSource) else [SOURCE]
    around += [{"weightsOnly": {}}] if issubclass(kind, ModelModifier) else []
    after = [] if issubclass(kind, (LoadingStrategy, ModelModifier)) else [{"weightsOnly": {}}]
    resource = {"kind": KIND, "metadata": {"name": "example"}, "spec": {"stages": [*around, stage, *after]}}
    assert list(stage) == [camel_case(name)]
    assert type(Pipeline.parse(resource).parsed.stages[len(around)]) is kind


def test_every_label_and_annotation_of_ours_has_a_row() -> None:
    code = [path.read_text() for path in (ROOT / "operator/preheat_operator").glob("*.py")]
    used = {mark for text in code for mark in re.findall(r'"(preheat\.dev/[a-z-]+)"', text)}
    assert set(named(section("Labels and annotations"))) == used


def test_every_variable_that_a_container_is_given_has_a_row() -> None:
    pipeline = Pipeline.parse({"metadata": {"name": "example"}, "spec": {"stages": [SOURCE]}})
    pod = {"spec": {"containers": [{"name": "train", "image": "trainer:1"}]}}
    [container] = inject(pod, pipeline, Settings(namespace="here", loader_image="loader:1"))["spec"]["containers"]
    ours = re.findall(r"^\| `(\w+)` \| webhook", section("Environment"), re.MULTILINE)
    assert sorted(ours) == sorted(variable["name"] for variable in container["env"])
