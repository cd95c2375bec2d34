"""Preheat installed in the real cluster, and namespaces to use it in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import story
from demo.install import install
from demo.platforms import Local
from e2e.tenant import Tenant


@pytest.fixture(scope="module")
def installed(cluster, request: pytest.FixtureRequest) -> Iterator[Local]:
    """Preheat, from this checkout; it stays until no later module wants it."""
    platform = Local()
    install(platform)
    yield platform
    users = [item.path for item in request.session.items if "installed" in item.fixturenames]
    if request.path == users[-1] or request.session.shouldfail or request.session.shouldstop:
        platform.helm("uninstall", "preheat", "--namespace", "preheat-system", "--wait")


@pytest.fixture(scope="module")
def platform(installed: Local) -> Iterator[Local]:
    """The namespace of the demo, which enforces `restricted` and a quota."""
    story.set_up_namespace(installed)
    yield installed
    installed.kubectl("delete", "namespace", story.NAMESPACE, "--wait=true")
    for label in ("preheat.dev/demo", "preheat.test/namespace"):
        installed.kubectl("delete", "persistentvolume", "-l", f"{label}={story.NAMESPACE}")


@pytest.fixture(scope="module")
def tenant(installed: Local, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenant]:
    """A namespace where anything is allowed, with a tiny checkpoint and the pipeline `finetune`."""
    folder: Path = tmp_path_factory.mktemp("tenant")
    tenant = Tenant(installed)
    tenant.set_up(folder)
    yield tenant
    installed.kubectl("delete", "namespace", tenant.namespace, "--wait=false")
