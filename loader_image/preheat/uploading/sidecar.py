"""The container beside a training: `python -m preheat.uploading.sidecar` sends what it saves, until the pod ends.

It is told everything by its environment, and asks no API. Killed and started again it goes on: what the other end has
is asked there. When it is told to end, the training has ended; it sends the rest first.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preheat.beacon import UPLOADS_PATH, beacon, port_in
from preheat.blob import Patience
from preheat.construction import construct, snake_case
from preheat.container import GC_THRESHOLD, log_to_stderr
from preheat.errors import CheckpointConfigError, CheckpointError
from preheat.progress import LogProgress
from preheat.redaction import Redaction
from preheat.spelling import build
from preheat.stage import CheckpointSource
from preheat.termination_message import leave_failure, leave_message
from preheat.uploading.account import Account
from preheat.uploading.ending import Ending
from preheat.uploading.finished import Rest
from preheat.uploading.shipping import Shipping, follow
from preheat.uploading.target import Verify
from preheat.uploading.targets import target_of

log = logging.getLogger("preheat.uploading")


@dataclass(frozen=True)
class Settings:
    """What the operator injects."""

    path: Path
    to: CheckpointSource
    verify: Verify = "checksum"
    settle_seconds: float = 30
    max_retries: int = 3
    timeout_seconds: float = 300
    port: int | None = None  # where the operator asks what became of it; None: it does not
    pod: str = ""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """The settings of an environment; raises CheckpointConfigError that says what is wrong."""
        try:
            document = json.loads(environment.get("PREHEAT_UPLOAD", ""))
        except ValueError:
            document = None
        if not isinstance(document, dict) or not {"path", "to"} <= document.keys():
            raise CheckpointConfigError("PREHEAT_UPLOAD does not say what goes where", remedy="The operator sets it")
        given: dict[str, Any] = {snake_case(name): value for name, value in document.items()}
        given |= {"path": Path(given["path"]), "to": build(given["to"], "upload.to")}
        given |= {"port": port_in(environment, "PREHEAT_UPLOADS_PORT"), "pod": environment.get("PREHEAT_POD_UID", "")}
        settings: Settings = construct(cls, given, "upload")
        return settings

    @property
    def patience(self) -> Patience:
        """How long the target is tried."""
        return Patience(self.max_retries, self.timeout_seconds)


class Telling:
    """Tells the kubelet and who asks the pod, whenever there is news: of a container that is killed this is all."""

    def __init__(self) -> None:
        self._redaction = Redaction(os.environ)
        self.last: Mapping[str, Any] = {}

    def __call__(self, account: Account) -> None:
        """The account has changed."""
        told = self._redaction.document(account.brief())
        if told != self.last:
            self.last = told
            leave_message(told)


def main() -> int:
    """Send until told to end, and return the exit code."""
    gc.set_threshold(GC_THRESHOLD)
    log_to_stderr()
    ending = Ending().by(signal.SIGTERM)
    try:
        settings = Settings.read(os.environ)
        log.info("sending what is finished in %s to %s", settings.path, settings.to.uri)
        return _run(settings, ending)
    except CheckpointError as error:
        log.error("%s: %s", error.reason, error)
        return leave_failure(error.exit_code, error.reason, error.args[0], error.remedy)
    except Exception as error:
        log.exception("InternalError: this is a defect of Preheat")
        return leave_failure(
            1, "InternalError", f"{type(error).__name__} in the upload", "See the log of preheat-upload"
        )


def _run(settings: Settings, ending: Ending) -> int:
    target = target_of(settings.to, settings.patience, settings.verify)
    telling = Telling()
    shipping = Shipping(settings.path, target, LogProgress(log), told=telling)
    # Without a uid everybody would be told.
    port, path = settings.port if settings.pod else None, f"{UPLOADS_PATH}{settings.pod}"
    try:
        with beacon(port, lambda: telling.last, path):
            follow(shipping, Rest(settings.settle_seconds), ending)
    finally:
        target.close()
    return shipping.account.error.exit_code if shipping.account.error else 0


if __name__ == "__main__":
    sys.exit(main())
