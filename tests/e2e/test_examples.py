"""Every example is accepted by the real API server, strictly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crds import installed

pytestmark = pytest.mark.cluster

EXAMPLES = Path(__file__).parents[2] / "examples"
# What is under gitops is for Argo CD and Flux, whose kinds no bare cluster has; tests/charts looks at it.
MANIFESTS = sorted(path for path in EXAMPLES.rglob("*.yaml") if not {"offline", "gitops"} & {*path.parts})
# These name the demo's namespace; the others go wherever their user is.
IN_THE_DEMO = [path for path in MANIFESTS if "preheat-demo" in path.read_text()]


@pytest.fixture(scope="module")
def resources(cluster) -> Iterator[None]:
    with installed(cluster):
        found = cluster.kubectl("get", "namespace", "preheat-demo", "--ignore-not-found")
        if not found:
            cluster.kubectl("create", "namespace", "preheat-demo")
        yield
        if not found:
            cluster.kubectl("delete", "namespace", "preheat-demo")


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_an_example_is_accepted_strictly(cluster, resources, manifest):
    where = [] if manifest in IN_THE_DEMO else ["-n", "default"]
    cluster.kubectl("apply", "--dry-run=server", "--validate=strict", *where, "-f", str(manifest))
