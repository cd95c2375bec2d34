"""Resources as earlier releases stored them: what was valid stays valid, means the same, and is written back unchanged.

A folder of `data` for each release; its files are never changed. See docs/install.md, Compatibility.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from preheat.catalog import built_in
from preheat.construction import camel_case
from preheat.spec import parse, to_mapping
from preheat_operator.api import Pipeline, Resource

DATA = Path(__file__).parent / "data"
FIRST = DATA / "v1alpha1-0.1.0"
STORED = {f"{path.parent.name}/{path.stem}": path for path in sorted(DATA.glob("v1*/*.yaml"))}

every_stored = pytest.mark.parametrize("name", STORED)


def read(name: str) -> dict[str, Any]:
    stored: dict[str, Any] = yaml.safe_load(STORED[name].read_text())
    return stored


def body(stored: dict[str, Any]) -> dict[str, Any]:
    return {key: stored[key] for key in ("spec", "status") if key in stored}


@every_stored
def test_a_stored_resource_is_still_a_pipeline(name: str) -> None:
    stored = read(name)
    assert len(Pipeline.parse(stored).parsed.stages) == len(stored["spec"]["stages"])


@every_stored
def test_a_resource_goes_through_the_models_and_back_unchanged(name: str) -> None:
    stored = body(read(name))
    once = Resource.model_validate(stored)
    written = once.model_dump(by_alias=True, exclude_unset=True)
    assert written == stored
    assert Resource.model_validate(written) == once


@every_stored
def test_what_the_loader_is_told_means_the_same(name: str) -> None:
    parsed = Pipeline.parse(read(name)).parsed
    assert parse(to_mapping(parsed)) == parsed


def test_every_stage_of_the_first_release_is_kept() -> None:
    """What comes later belongs to a later release's folder."""
    stages = [stage for path in FIRST.glob("*.yaml") for stage in yaml.safe_load(path.read_text())["spec"]["stages"]]
    kept = {name for stage in stages for name in stage}
    assert kept <= {camel_case(name) for name in built_in()}
    assert len(kept) == 19


@pytest.mark.cluster
def test_the_api_server_takes_every_stored_resource_as_it_is(installed_crd: Any) -> None:
    every = "\n---\n".join(path.read_text() for path in STORED.values())
    flags = ("--dry-run=server", "--validate=strict", "-f", "-")
    answer = installed_crd.kubectl("create", *flags, input=every, check=False)
    assert answer.count("created (server dry run)") == len(STORED), answer
