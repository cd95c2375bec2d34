"""What images are built from is what the tests have run with: the same versions, known by the same hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned(lock: str) -> dict[str, set[str]]:
    """The hashes of each `name==version` in a lock."""
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    lines = re.findall(r"^([a-z0-9.-]+==\S+)(.*)$", text, re.MULTILINE)
    return {name: set(re.findall(r"sha256:[0-9a-f]{64}", rest)) for name, rest in lines}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=, ]", requirement)[0].lower() for requirement in requirements}


@pytest.mark.parametrize(
    ("image", "extras"), [("operator", ["operator"]), ("loader_image", ["loader", "signature"])], ids=lambda x: str(x)
)
def test_an_image_holds_what_is_locked(image: str, extras: list[str]) -> None:
    every, ours = pinned("requirements.lock"), pinned(f"{image}/requirements.lock")
    assert {name: hashes for name, hashes in ours.items() if every.get(name) != hashes} == {}, "run `make lock`"
    wanted = [*PROJECT["dependencies"], *(each for extra in extras for each in PROJECT["optional-dependencies"][extra])]
    assert names(wanted) <= {name.partition("==")[0] for name in ours}, "run `make lock`"


@pytest.mark.parametrize("file", ["operator/Dockerfile", "loader_image/Dockerfile"])
def test_an_image_takes_nothing_from_an_index_without_its_hash(file: str) -> None:
    commands = [line for line in (ROOT / file).read_text().splitlines() if re.search(r"pip .*(install|wheel) ", line)]
    assert len(commands) >= 4
    assert [
        line for line in commands if not re.search("--require-hashes|--no-index|--no-deps --no-build-isolation", line)
    ] == []
