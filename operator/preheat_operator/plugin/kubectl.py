"""The cluster, asked by kubectl itself: its contexts, logins, proxies and names of kinds are then those of the user."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from preheat.errors import CheckpointError

Object = Mapping[str, Any]

_REFUSAL = re.compile(r"^Error from server(?: \((\w+)\))?: (.*)", re.MULTILINE)
_LOG_LINE = re.compile(r"^[EWI]\d{4} .*\n?", re.MULTILINE)
_UNKNOWN_KIND = "the server doesn't have a resource type"


class ClusterError(CheckpointError):
    """The cluster did not answer what was asked; the message has kubectl's words."""

    reason = "ClusterError"
    exit_code = 2


class NotThereError(ClusterError):
    """There is no such object, or no such kind."""

    reason = "NotFound"


class NotAllowedError(ClusterError):
    """The user may not read that, or change it."""

    reason = "Forbidden"


@dataclass(frozen=True)
class Kubectl:
    """kubectl with the options that say which cluster, and which namespace where an object's is not given."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None

    def get(self, *what: str, namespace: str | None = None) -> Object:
        """`kubectl get WHAT -o json`; raises ClusterError."""
        where = namespace or self.namespace
        found: Object = json.loads(self._run("get", *what, "-o", "json", *(("-n", where) if where else ())))
        return found

    def items(self, *what: str, namespace: str | None = None) -> list[Object]:
        """The objects of a list."""
        found = self.get(*what, namespace=namespace)
        return list(found["items"])

    def annotate(self, kind: str, name: str, annotation: str, namespace: str) -> None:
        """Set an annotation, whatever it was before; raises ClusterError."""
        self._run("annotate", kind, name, annotation, "--overwrite", "-n", namespace)

    def _run(self, *arguments: str) -> str:
        options = {"--context": self.context, "--kubeconfig": self.kubeconfig}
        given = [word for name, value in options.items() if value for word in (name, value)]
        try:
            done = subprocess.run(["kubectl", *given, *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise ClusterError("there is no kubectl on PATH", remedy="Install it; files need no cluster: -f") from None
        if done.returncode:
            raise error_of(done.stderr.strip())
        return done.stdout


def error_of(said: str) -> ClusterError:
    """What kubectl has said on standard error."""
    said = _LOG_LINE.sub("", said) or said
    refusal = _REFUSAL.search(said)
    kind = {"NotFound": NotThereError, "Forbidden": NotAllowedError}.get(refusal[1] if refusal else "", ClusterError)
    if _UNKNOWN_KIND in said:
        return NotThereError(said.removeprefix("error: "), remedy="Write TYPE/NAME, such as job/finetune")
    return kind(" ".join((refusal[2] if refusal else said).split()))
