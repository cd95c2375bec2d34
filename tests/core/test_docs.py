"""The documentation's tables say what the code does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from preheat.cli import app
from preheat.errors import CheckpointError
from preheat_operator.api import LABEL
from preheat_operator.loader_run import REASONS
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


def test_every_field_and_reason_of_the_status_is_documented():
    text = (DOCS / "status.md").read_text()
    fields = {field.alias for field in Status.model_fields.values()} - {"observedGeneration", "conditions"}
    assert set(re.findall(r"^\| `(\w+)` \| ", text.split("## Fields")[1].split("##")[0], re.MULTILINE)) == fields
    of_errors = {error.reason for error in every(CheckpointError)}
    assert [reason for reason in REASONS - of_errors if f"`{reason}`" not in text] == []


def test_every_test_that_a_page_calls_a_proof_exists():
    tests = DOCS.parent / "tests"
    proofs = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", (DOCS / "security.md").read_text())
    lost = [f"{file}::{name}" for file, name in proofs if f"def {name}(" not in (tests / file).read_text()]
    assert lost == []
    assert len(proofs) > 30


#: What Kubernetes says itself.
THEIRS = re.compile(r"^.*(denied the request|Invalid value): |^(failed calling|strict decoding|error: the server).*")


def test_every_message_in_troubleshooting_is_one_of_ours():
    root = DOCS.parent
    sources = [*root.glob("loader_image/preheat/**/*.py"), *root.glob("operator/preheat_operator/*.py")]
    said = [template for path in sources for template in templates(path.read_text())]
    said += [path.read_text() for path in root.glob("charts/preheat/templates/*/*")]
    shown = re.findall(r"^```text\n(.*?)^```$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [THEIRS.sub("", line) for block in shown for line in block.splitlines()]
    pieces = {piece.strip(" .:") for line in lines for piece in line.replace(LABEL, "...").split("...")}
    assert len(pieces) > 40
    assert [piece for piece in pieces if not any(piece in each for each in said)] == []


def test_every_event_of_the_operators_log_is_explained_and_no_other():
    section = (DOCS / "operations.md").read_text().partition("\n## Logs\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE)
    explained = {name for cell in cells for name in cell.strip("`").split("`, `")}
    modules = (path.read_text() for path in DOCS.parent.glob("operator/preheat_operator/*.py"))
    written = {(level, event) for source in modules for level, event in logged(source)}
    assert explained <= {event for _, event in written}
    assert {event for level, event in written if level != "info"} <= explained


def logged(source: str) -> Iterator[tuple[str, str]]:
    """Level and event of every line that a module logs, but for those at DEBUG."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(ast.Attribute(ast.Name("_log"), level), [ast.Constant(str(event)), *_]) if level != "debug":
                yield level, event


def templates(source: str) -> Iterator[str]:
    """Every text in a module, with a gap where a value is put in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
