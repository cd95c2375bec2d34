"""Rules of the layout that break in ways nobody would guess, so they are checked."""

from __future__ import annotations

import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "numpy", "boto3", "botocore", "pydantic", "kopf", "aiohttp", "lightkube", "lightning"}


@pytest.mark.parametrize("folder", ["operator", "loader_image", "tests"])
def test_folders_that_shadow_or_break_imports_are_no_packages(folder):
    assert not (ROOT / folder / "__init__.py").exists()


def test_the_standard_librarys_operator_is_what_the_checkouts_root_imports():
    script = "import operator, collections; print(operator.__file__)"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(ROOT) not in found.stdout.replace(sys.prefix, "")


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("import preheat", "import preheat"),
        ("the loader", "import preheat.loader"),
        ("the shim", "import preheat.shim.import_hook, preheat.shim.guard"),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(what, code):
    script = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(json.loads(found.stdout)), what


def test_the_commands_help_imports_nothing_heavy():
    script = (
        "import sys, json\nfrom preheat.cli import main\nsys.argv = ['preheat', '--help']\n"
        "try: main()\nexcept SystemExit: pass\nprint('MODULES', json.dumps(sorted(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(json.loads(found.stdout.partition("MODULES ")[2]))


@pytest.mark.parametrize("package", ["preheat", "preheat_operator"])
def test_no_module_needs_itself_however_late_it_imports(package):
    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    needs = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(needs).prepare()  # raises CycleError, which names the circle


def test_the_map_for_contributors_names_every_package_of_the_core():
    packages = {path.parent.name for path in (ROOT / "loader_image" / "preheat").glob("*/__init__.py")}
    said = (ROOT / "CONTRIBUTING.md").read_text()
    assert {name for name in packages if f"`{name}`" not in said} == set()
