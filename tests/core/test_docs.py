"""The documentation's tables say what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import Metric

from preheat.cli import app
from preheat.errors import CheckpointError
from preheat_operator import metrics
from preheat_operator.observation import REASONS
from preheat_operator.status_model import Status

DOCS = Path(__file__).parents[2] / "docs"


def every(error: type[CheckpointError]) -> Iterator[type[CheckpointError]]:
    yield error
    for child in error.__subclasses__():
        if child.__module__ == "preheat.errors":
            yield from every(child)


def test_every_reason_and_exit_code_is_documented_once():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| ([a-z ]+) \|", (DOCS / "errors.md").read_text(), re.MULTILINE)
    ends = {True: "goes on", False: "fails"}
    known = {(error.reason, str(error.exit_code), ends[error.continuable]) for error in every(CheckpointError)}
    assert sorted(rows) == sorted(known)


def test_reasons_and_exit_codes_are_unique():
    found = list(every(CheckpointError))
    assert len({error.reason for error in found}) == len({error.exit_code for error in found}) == len(found)


def test_every_verb_of_the_command_line_is_documented():
    verbs = {verb.name or verb.callback.__name__ for verb in app.registered_commands}
    verbs |= {group.name for group in app.registered_groups}
    assert set(re.findall(r"^\| \[?`(\w+) ", (DOCS / "cli.md").read_text(), re.MULTILINE)) == verbs


def described(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


def test_every_field_reason_and_metric_of_the_status_is_documented():
    text = (DOCS / "status.md").read_text()
    fields = {field.alias for field in Status.model_fields.values()} - {"observedGeneration", "conditions"}
    assert set(re.findall(r"^\| `(\w+)` \| ", text.split("## Fields")[1].split("##")[0], re.MULTILINE)) == fields
    of_errors = {error.reason for error in every(CheckpointError)}
    assert [reason for reason in REASONS - of_errors if f"`{reason}`" not in text] == []
    ours = {described(each) for each in metrics.CONTROLLER.collect() if each.name.startswith("preheat_")}
    assert set(re.findall(r"^\| `(preheat_\w+)` \| ", text, re.MULTILINE)) == ours


def test_every_test_that_a_page_calls_a_proof_exists():
    tests = DOCS.parent / "tests"
    proofs = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", (DOCS / "security.md").read_text())
    lost = [f"{file}::{name}" for file, name in proofs if f"def {name}(" not in (tests / file).read_text()]
    assert lost == []
    assert len(proofs) > 30
