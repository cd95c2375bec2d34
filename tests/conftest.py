"""Fixtures of every test: the real cluster comes from tests/cluster and is shared by the whole run."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import hypothesis
import pytest
import structlog

pytest_plugins = ["cluster.fixtures"]

# Neither a deadline nor a slow or choosy generator says anything about the code; no example at all is still an error.
hypothesis.settings.register_profile(
    "untimed",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much],
)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Processes configure logging when they start; a test that runs one in this process leaves no trace of that."""
    loggers = [logging.getLogger(name) for name in (None, "preheat")]
    before = [(logger.handlers[:], logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.level = handlers, level
    structlog.reset_defaults()
