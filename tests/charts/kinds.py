"""Kinds of other projects that the chart writes objects of: cert-manager's and the Prometheus operator's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import settings
from cluster.commands import run
from cluster.lifecycle import Cluster

_DEFINITIONS = {
    "github.com/cert-manager/cert-manager": [
        "deploy/crds/cert-manager.io_certificates.yaml",
        "deploy/crds/cert-manager.io_issuers.yaml",
    ],
    "github.com/prometheus-operator/prometheus-operator": [
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ],
}


@contextmanager
def known(cluster: Cluster) -> Iterator[None]:
    """The API server knows them, as their Go modules define them; afterwards it does not."""
    files = [each for module, names in _DEFINITIONS.items() for each in _files(module, names)]
    arguments = [part for file in files for part in ("-f", file)]
    cluster.kubectl("apply", "--server-side", *arguments)
    try:
        cluster.kubectl("wait", "--for=condition=Established", *arguments, "--timeout=60s")
        yield
    finally:
        cluster.kubectl("delete", *arguments, "--wait=false")


def _files(module: str, names: list[str]) -> list[Path]:
    folder = Path(json.loads(run("go", "mod", "download", "-json", module, cwd=settings.MODULES / "kinds"))["Dir"])
    return [folder / name for name in names]
