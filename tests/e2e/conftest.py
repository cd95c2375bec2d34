"""Preheat installed in the real cluster, and a namespace that enforces `restricted` and a quota."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo import story
from demo.install import install
from demo.platforms import Local


@pytest.fixture(scope="module")
def platform(cluster) -> Iterator[Local]:
    platform = Local()
    install(platform)
    story.set_up_namespace(platform)
    yield platform
    platform.kubectl("delete", "namespace", story.NAMESPACE, "--wait=true")
    for label in ("preheat.dev/demo", "preheat.test/namespace"):
        platform.kubectl("delete", "persistentvolume", "-l", f"{label}={story.NAMESPACE}")
    platform.helm("uninstall", "preheat", "--namespace", "preheat-system", "--wait")
