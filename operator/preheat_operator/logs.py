"""One way of logging for our own code and for the libraries: JSON for machines, or lines for a person at a terminal."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

from preheat_operator.settings import Settings

# kopf logs whole patches and every event at DEBUG, and every handled event at INFO; httpx logs every request.
_QUIET = {"kopf": logging.WARNING, "httpx": logging.WARNING, "httpx2": logging.WARNING, "httpcore": logging.WARNING,
          "httpcore2": logging.WARNING, "aiohttp.access": logging.WARNING, "asyncio": logging.WARNING}  # fmt: skip
_SECRETS = (
    re.compile(r"(?i)(bearer\s+|authorization[\"']?\s*[:=]\s*[\"']?\w+\s+)[\w.~+/=-]+"),
    re.compile(r"(?i)([?&]sig=)[^\s\"'&]+"),
    re.compile(r"(\w+://[^\s/:@]*:)[^\s/@]+(?=@)"),
    re.compile(r"(?i)((?:password|secret|token|signature|credential)[\w-]*[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,}]+"),
)


def configure(settings: Settings) -> None:
    """Send everything that is logged in this process to stderr, in the form that `settings` asks for."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        without_credentials,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(settings, shared))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(max(level, root.level))


def without_credentials(_: Any, __: str, event: EventDict) -> EventDict:
    """Blank what looks like a credential, in every value: the last line of defence, not the first."""
    for key, value in event.items():
        if isinstance(value, str):
            for secret in _SECRETS:
                value = secret.sub(r"\1***", value)
            event[key] = value
    return event


def _formatter(settings: Settings, shared: list[Processor]) -> logging.Formatter:
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
