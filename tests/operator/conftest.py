"""What tests of the operator share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from preheat_operator import crd
from preheat_operator.api import GROUP, PLURAL

NAME = f"{PLURAL}.{GROUP}"


@pytest.fixture(scope="module")
def installed_crd(cluster: Any) -> Iterator[Any]:
    """The cluster, knowing CheckpointPipelines as they are now; it forgets them if it did not know them before."""
    known = NAME in cluster.kubectl("get", "customresourcedefinitions", "-o", "name")
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=crd.plain_text())
    cluster.kubectl("wait", "--for=condition=Established", f"crd/{NAME}", "--timeout=30s")
    yield cluster
    if not known:  # a release that is installed later would not take over what is not its own
        cluster.kubectl("delete", "customresourcedefinition", NAME)
