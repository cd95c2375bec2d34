"""What a container of Preheat's leaves behind for Kubernetes: one JSON document, never longer than is kept of it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preheat.redaction import Redaction

MAX_MESSAGE = 4096  # bytes that Kubernetes keeps of a termination message

log = logging.getLogger(__name__)


def message_path(environment: Mapping[str, str]) -> Path:
    """Where Kubernetes reads the termination message."""
    return Path(environment.get("PREHEAT_TERMINATION_LOG", "/dev/termination-log"))


def leave_failure(code: int, reason: str, message: str, remedy: str) -> int:
    """Write why there is no success as termination message, and return the exit code."""
    leave_message({"outcome": "failed", "reason": reason, "message": " ".join(message.split()), "remedy": remedy})
    return code


def leave_message(message: dict[str, Any]) -> None:
    """Write the termination message, at most as long as Kubernetes keeps; outside a pod there is no place for it."""
    message = Redaction(os.environ).document(message)
    while len(text := json.dumps(message)) > MAX_MESSAGE and message.get("message"):
        message = {**message, "message": message["message"][: len(message["message"]) // 2]}
    while len(text) > MAX_MESSAGE and message.get("warnings"):
        message = {**message, "warnings": message["warnings"][:-1]}
        text = json.dumps(message)
    while len(text) > MAX_MESSAGE and (resume := message.get("resume")) and resume["passed"]:
        more = resume.get("morePassed", 0) + 1
        message = {**message, "resume": {**resume, "passed": resume["passed"][:-1], "morePassed": more}}
        text = json.dumps(message)
    while len(text) > MAX_MESSAGE and message.get("waiting"):
        message = {**message, "waiting": message["waiting"][:-1], "moreWaiting": message.get("moreWaiting", 0) + 1}
        text = json.dumps(message)
    try:
        message_path(os.environ).write_text(text)
    except OSError as error:
        log.warning("the termination message cannot be written: %s", error.strerror)
