"""The chart rendered by helm, without a cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from rendered_yaml import documents

CHART = Path(__file__).parents[2] / "charts" / "preheat"


@pytest.fixture(scope="session")
def helm():
    binaries = pytest.importorskip("cluster.binaries")
    host = pytest.importorskip("cluster.host")
    try:
        program = binaries.binary(binaries.HELM, "helm")
    except host.ClusterUnavailable as reason:
        pytest.skip(f"no helm: {reason}")

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def render(helm):
    def rendered(*arguments: str | Path) -> list[dict[str, Any]]:
        done = helm("template", "preheat", CHART, "--namespace", "preheat-system", *arguments)
        assert done.returncode == 0, done.stderr
        return documents(done.stdout)

    return rendered
