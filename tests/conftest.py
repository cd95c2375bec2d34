"""Fixtures of every test: the real cluster comes from tests/cluster and is shared by the whole run."""

pytest_plugins = ["cluster.fixtures"]
