"""Builds Kubernetes, etcd, helm, the S3 server and controllers of others from locked Go modules, once.

A result is kept under the digest of all that determines it, so an unchanged module is never built again and a
half-finished build is never taken for a whole one. Nothing prebuilt is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cluster import settings
from cluster.commands import only_one, run, say
from cluster.host import ClusterUnavailable


@dataclass(frozen=True)
class Module:
    """One Go module under modules/: what it builds, and how long a person waits for it on two cores."""

    name: str
    package: str  # the module whose version names the build
    versions: tuple[str, ...]  # variables that carry {version}, {major} and {minor}
    duration: str

    @property
    def folder(self) -> Path:
        return settings.MODULES / self.name

    def version(self) -> str:
        """The version go.mod pins, such as v1.36.3."""
        found = re.search(rf"\s{re.escape(self.package)} (v\S+)", (self.folder / "go.mod").read_text())
        assert found, f"{self.folder}/go.mod does not require {self.package}"
        return found[1]


_COMPONENT = "k8s.io/component-base/version"
# Without these the API server reports v0.0.0, and clients misbehave.
_KUBERNETES = (
    f"{_COMPONENT}.gitVersion={{version}}", f"{_COMPONENT}.gitMajor={{major}}", f"{_COMPONENT}.gitMinor={{minor}}"
)  # fmt: skip
NEWEST = Module("kubernetes", "k8s.io/kubernetes", _KUBERNETES, "about 5 minutes")  # and etcd, and the pause program
OLDER = {"1.33": Module("kubernetes-1.33", "k8s.io/kubernetes", _KUBERNETES, "about 5 minutes")}


def _chosen(minor: str) -> Module:
    """The Kubernetes that is run: the newest, or the older minor that PREHEAT_KUBERNETES names."""
    if minor and minor not in OLDER:
        raise SystemExit(f"PREHEAT_KUBERNETES is {minor!r}; besides the newest there is {', '.join(OLDER)}")
    return OLDER[minor] if minor else NEWEST


KUBERNETES = _chosen(os.environ.get("PREHEAT_KUBERNETES", ""))
_HELM = "helm.sh/helm/v3"
HELM = Module(
    "helm",
    _HELM,
    # Without the cluster's version `helm template` believes in Kubernetes 1.20.
    (
        f"{_HELM}/internal/version.version={{version}}",
        f"{_HELM}/pkg/chartutil.k8sVersionMajor={{kubernetes_major}}",
        f"{_HELM}/pkg/chartutil.k8sVersionMinor={{kubernetes_minor}}",
        f"{_HELM}/pkg/lint/rules.k8sVersionMajor={{kubernetes_major}}",
        f"{_HELM}/pkg/lint/rules.k8sVersionMinor={{kubernetes_minor}}",
    ),
    "about 75 seconds",
)
VERSITYGW = Module("versitygw", "github.com/versity/versitygw", ("main.Version={version}",), "about a minute")
TRAINING_OPERATOR = Module("training-operator", "github.com/kubeflow/training-operator", (), "about a minute")
TRAINER = Module("trainer", "github.com/kubeflow/trainer/v2", (), "about a minute")  # and the JobSet that it needs
MODULES = (NEWEST, KUBERNETES, HELM, VERSITYGW, TRAINING_OPERATOR, TRAINER)
ETCD = "server"  # Go names a program after its folder


def build_all() -> None:
    """Build what is not in the cache yet."""
    for module in MODULES:
        folder_of(module)


def binary(module: Module, name: str) -> Path:
    """The path of one built program; builds its module when that was never done."""
    return folder_of(module) / name


@cache
def folder_of(module: Module) -> Path:
    """The folder of a module's programs, built when it is not there."""
    flags = _linker_flags(module)
    folder = settings.cache() / "bin" / f"{module.name}-{_digest(module, flags)}"
    if not folder.exists():
        with only_one(folder.parent / "lock"):
            if not folder.exists():
                _build(module, flags, folder)
    return folder


def source_of(module: Module, package: str) -> Path:
    """The folder of a Go module that this one requires, with whatever files it brings; fetched when it is not there."""
    found = json.loads(run("go", "mod", "download", "-json", package, cwd=module.folder))
    return Path(found["Dir"])


def _build(module: Module, flags: str, folder: Path) -> None:
    say(f"building {module.name} {module.version()}: {module.duration} on two cores, once")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        run(
            "go", "build", "-trimpath", "-ldflags", flags, "-o", f"{scratch}/bin/", "tool", "./...",
            cwd=module.folder, env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"},
        )  # fmt: skip
        Path(scratch, "bin").rename(folder)
    say(f"built {module.name} in {time.monotonic() - started:.0f} s")


def _linker_flags(module: Module) -> str:
    major, minor = module.version()[1:].split(".")[:2]
    kubernetes_major, kubernetes_minor = NEWEST.version()[1:].split(".")[:2]
    values = {
        "version": module.version(),
        "major": major,
        "minor": minor,
        "kubernetes_major": kubernetes_major,
        "kubernetes_minor": kubernetes_minor,
    }
    return " ".join(["-s -w", *(f"-X {variable.format(**values)}" for variable in module.versions)])


def _digest(module: Module, flags: str) -> str:
    digest = hashlib.sha256(f"{_go_version()} {flags}".encode())
    for file in sorted(module.folder.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(module.folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _go_version() -> str:
    if shutil.which("go") is None:
        raise ClusterUnavailable("the cluster needs Go on PATH: Kubernetes is built from its modules")
    return run("go", "env", "GOVERSION", "GOOS", "GOARCH", cwd=KUBERNETES.folder)
