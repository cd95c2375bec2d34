"""The real API server accepts, strictly, what is made of each system's configurations."""

import pytest
import yaml
from migrate.configurations import CONFIGS, NAMES

from crds import installed
from preheat.migrate import migrate
from preheat.migrate.reading import read

pytestmark = pytest.mark.cluster


def test_the_api_server_accepts_what_becomes_of_every_system(cluster):
    resources = [migrate(read(CONFIGS / f"{name}.yaml").document)[0].document for name in NAMES]
    with installed(cluster):
        flags = ("--dry-run=server", "--validate=strict", "-n", "default", "-f", "-")
        answer = cluster.kubectl("create", *flags, input=yaml.safe_dump_all(resources))
    assert answer.count("(server dry run)") == len(NAMES), answer
