"""The values in the chart's README are what values.yaml says of them; PREHEAT_UPDATE_GOLDEN=1 writes them anew."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "charts" / "preheat"
README = CHART / "README.md"
_BLOCK = re.compile(r"(?<=<!-- values -->\n).*(?=<!-- end -->)", re.DOTALL)
_KEY = re.compile(r"^( *)(\w+):")
_COMMENT = "# -- "


def values() -> Iterator[tuple[str, str]]:
    """Each commented value's path and comment."""
    path: list[str] = []
    comment = ""
    for line in (CHART / "values.yaml").read_text().splitlines():
        if line.lstrip().startswith(_COMMENT):
            comment = line.strip().removeprefix(_COMMENT)
        elif found := _KEY.match(line):
            path[len(found[1]) // 2 :] = [found[2]]
            if comment:
                yield ".".join(path), comment
            comment = ""


def default(path: str) -> str:
    found: Any = yaml.safe_load((CHART / "values.yaml").read_text())
    for key in path.split("."):
        found = found[key]
    return yaml.safe_dump(found, default_flow_style=True, width=1000, sort_keys=False).removesuffix("...\n").strip()


def table() -> str:
    rows = [f"| `{path}` | `{default(path)}` | {comment.replace('<', '&lt;')} |" for path, comment in values()]
    return "\n".join(["| value | default | |", "|---|---|---|", *rows, ""])


def test_the_readme_lists_every_value() -> None:
    text = README.read_text()
    wanted = _BLOCK.sub(lambda _: table(), text)
    if os.environ.get("PREHEAT_UPDATE_GOLDEN"):
        README.write_text(wanted)
    assert README.read_text() == wanted
    assert len(list(values())) > 80


def test_what_the_readme_leads_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)", README.read_text())
    assert links
    assert [link for link in links if not (CHART / link).exists()] == []
