"""What tests of the operator share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from crds import installed


@pytest.fixture(scope="module")
def installed_crd(cluster: Any) -> Iterator[Any]:
    """The cluster, knowing CheckpointPipelines as they are now."""
    with installed(cluster):
        yield cluster
