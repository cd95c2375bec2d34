"""What the tests of faults share: the chart's objects, and a tenant's namespace. No node runs anything here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crds import installed
from faults.installation import Installation, Tenant, installed_chart


@pytest.fixture(scope="module")
def installation(cluster, tmp_path_factory) -> Iterator[Installation]:
    with installed(cluster), installed_chart(cluster, tmp_path_factory.mktemp("installation")) as found:
        yield found


@pytest.fixture
def tenant(installation, namespace) -> Tenant:
    return Tenant(installation.api, namespace)
