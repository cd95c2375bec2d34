"""Processes that are kept and told what to do next: what they prepare once is not measured again and again."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Sequence
from typing import Any

from processes import LONGEST, RunError


class Worker:
    """A process that answers each line with a line of JSON; use as a context manager."""

    def __init__(self, command: Sequence[Any]) -> None:
        self._command = [str(word) for word in command]
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def ask(self, line: str) -> dict[str, Any]:
        """What the process answers; raises RunError when it ends instead, or takes longer than ten minutes."""
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        timer = threading.Timer(LONGEST, self._process.kill)
        timer.start()
        try:
            for line in self._process.stdout:
                if line.startswith("{"):  # libraries talk as well
                    answer: dict[str, Any] = json.loads(line)
                    return answer
        finally:
            timer.cancel()
        raise RunError(f"{' '.join(self._command)} ended with {self._process.wait()}")
