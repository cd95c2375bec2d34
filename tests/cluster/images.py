"""Builds images without a registry: a base from Debian packages, and on it our own Dockerfiles, unchanged.

An image's tag is the digest of all that it is made from, so an unchanged one is never built again. Its archive stays in
the cache, where the next cluster takes it from. Our images carry no trace of this machine: pip's settings and the
machine's certificates are mounted while they are built.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster import settings
from cluster.commands import only_one, run, say
from cluster.host import codename, overlay_works

ImageName = Literal["operator", "loader"]
DOCKERFILES: dict[ImageName, str] = {"operator": "operator/Dockerfile", "loader": "loader_image/Dockerfile"}
# What the Dockerfiles copy; .dockerignore lets nothing else through.
CONTEXT = ("pyproject.toml", "build.lock", "README.md", "LICENSE", "operator", "loader_image", ".dockerignore")
BASE_PACKAGES = "ca-certificates,python3-minimal,python3-venv"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# buildah leaves a little here, wherever its store is.
SYSTEM_FOLDERS = (Path("/var/lib/containers"), Path("/etc/cni"))
PIP_OPTIONS = ("index_url", "extra_index_url", "trusted_host", "default_timeout", "retries", "proxy")


@dataclass(frozen=True)
class Image:
    """An image in the cache: its reference, and the OCI archive that carries it."""

    name: str
    digest: str

    @property
    def reference(self) -> str:
        return f"localhost/preheat-{self.name}:{self.digest}"

    @property
    def archive(self) -> Path:
        return settings.cache() / "images" / f"{self.name}-{self.digest}.tar"


def base_image() -> Image:
    """This machine's own release with its Python: training pods run it, and our images start from it."""
    image = Image("base", hashlib.sha256(f"{codename()} {BASE_PACKAGES}".encode()).hexdigest()[:12])
    with only_one(settings.cache() / "images" / "lock"):
        if not image.archive.exists():
            say(f"making the base image from {codename()}'s packages: about half a minute, once")
            _make_base(image)
    return image


def our_image(name: ImageName) -> Image:
    """The image that one of our Dockerfiles describes, built from the checkout as it is."""
    base = base_image()
    image = Image(name, _digest(base.reference, DOCKERFILES[name], *_context_files()))
    with only_one(settings.cache() / "images" / "lock"):
        if not image.archive.exists():
            say(f"building the {name} image")
            started = time.monotonic()
            _build_ours(image, base, settings.REPO / DOCKERFILES[name])
            say(f"built {image.reference} in {time.monotonic() - started:.0f} s")
    return image


def _make_base(image: Image) -> None:
    with tempfile.TemporaryDirectory(dir=image.archive.parent) as folder:
        context = Path(folder)
        root = context / "root.tar"
        run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={BASE_PACKAGES}", codename(), root)
        (context / "Dockerfile").write_text('FROM scratch\nADD root.tar /\nCMD ["python3"]\n')
        _buildah("bud", "--tag", image.reference, context)
    _export(image)


def _build_ours(image: Image, base: Image, dockerfile: Path) -> None:
    if not _buildah("images", "--quiet", "--filter", f"reference={base.reference}").strip():
        _buildah("pull", f"oci-archive:{base.archive}")
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as pip:
        pip.write(_pip_configuration())
        pip.flush()
        _buildah(
            "bud", "--layers", "--isolation", "chroot", "--build-arg", f"BASE={base.reference}",
            "--volume", f"{pip.name}:/etc/pip.conf:ro", "--volume", f"{_certificates()}:{CERTIFICATES}:ro",
            "--file", dockerfile, "--tag", image.reference, settings.REPO,
        )  # fmt: skip
    _export(image)
    _forget_older(image)


def _forget_older(image: Image) -> None:
    for archive in image.archive.parent.glob(f"{image.name}-*.tar"):
        if archive != image.archive:
            archive.unlink()
    # The layers that the next build starts from are kept: they have no name.
    named = _buildah(
        "images", "--format", "{{.Name}}:{{.Tag}}", "--filter", f"reference=localhost/preheat-{image.name}"
    )
    older = [reference for reference in named.split() if reference != image.reference]
    if older:
        _buildah("rmi", *older)


def _export(image: Image) -> None:
    unfinished = image.archive.with_suffix(".part")
    unfinished.unlink(missing_ok=True)
    _buildah("push", image.reference, f"oci-archive:{unfinished}:{image.reference}")
    unfinished.rename(image.archive)


def _buildah(*arguments: str | Path) -> str:
    store = settings.cache() / "buildah"
    store.mkdir(parents=True, exist_ok=True)
    driver = "overlay" if overlay_works(store) else "vfs"
    places = ("--root", store, "--storage-driver", driver)
    foreign = [folder for folder in SYSTEM_FOLDERS if not folder.exists()]
    with tempfile.TemporaryDirectory() as state:
        try:
            # A mount namespace of its own takes along whatever buildah leaves mounted.
            return run("unshare", "--mount", "buildah", *places, "--runroot", state, *arguments)
        finally:
            for folder in foreign:
                shutil.rmtree(folder, ignore_errors=True)


def _pip_configuration() -> str:
    """This machine's way to the package index, in pip's words."""
    known = {option: os.environ.get(f"PIP_{option.upper()}") for option in PIP_OPTIONS}
    lines = [f"{option.replace('_', '-')} = {value}" for option, value in known.items() if value]
    return "\n".join(["[global]", f"cert = {CERTIFICATES}", "disable-pip-version-check = true", *lines, ""])


def _certificates() -> str:
    return os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or CERTIFICATES


def _context_files() -> Iterable[Path]:
    for name in CONTEXT:
        path = settings.REPO / name
        yield from sorted(path.rglob("*")) if path.is_dir() else [path]


def _digest(*parts: str | Path) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(f"{part}\0".encode())
        elif part.is_file() and "__pycache__" not in part.parts:
            digest.update(f"{part.relative_to(settings.REPO)}\0".encode() + part.read_bytes())
    return digest.hexdigest()[:12]
