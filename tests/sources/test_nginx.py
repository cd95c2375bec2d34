"""Checkpoints behind nginx, the server that most of them are behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sources import nginx_server
from sources.nginx_server import PASSWORD, USERNAME, Nginx

from preheat.blob import Blob, Patience
from preheat.bundle.store import Store
from preheat.errors import AccessDeniedError, CheckpointNotFoundError, CheckpointSourceError, SourceChangedError
from preheat.formats import read_index
from preheat.prepare import prepare
from preheat.sources import attempts
from preheat.sources.http import HTTPSource
from preheat.spec import parse

CONTENT = os.urandom(300_000)

pytestmark = pytest.mark.skipif(
    nginx_server.executable() is None and os.environ.get("CI") != "true",
    reason="there is no nginx; `python -m cluster prepare` fetches it",
)


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with nginx_server.running(tmp_path_factory.mktemp("nginx")) as server:
        (server.files / "model.ckpt").write_bytes(CONTENT)
        (server.files / "text.txt").write_text("a text that is easily compressed\n" * 10_000)
        yield server


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.01)
    for name in [name for name in os.environ if name.startswith("PREHEAT_HTTP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def opened(url: str, path: str, **more: str) -> Blob:
    return HTTPSource(f"{url}/{path}", **more).open(Patience(1, 10))  # type: ignore[arg-type]


def assert_reads(blob: Blob, content: bytes = CONTENT) -> None:
    assert blob.size == len(content)
    assert blob.read(0, len(content)) == content
    assert blob.read(7, 12_345) == content[7:12_345]
    blob.close()


@pytest.mark.parametrize("path", ["plain", "moved", "slow"])
def test_a_file_is_read_by_ranges(nginx: Nginx, path: str) -> None:
    assert_reads(opened(nginx.url, f"{path}/model.ckpt"))


def test_what_the_server_would_compress_comes_as_it_is(nginx: Nginx) -> None:
    assert_reads(opened(nginx.url, "compressed/text.txt"), (nginx.files / "text.txt").read_bytes())


def test_a_certificate_of_ones_own_is_trusted_by_name(nginx: Nginx) -> None:
    assert_reads(opened(nginx.secure_url, "plain/model.ckpt", ca_bundle=nginx.certificate))
    with pytest.raises(CheckpointSourceError, match="not trusted"):
        opened(nginx.secure_url, "plain/model.ckpt")


def test_basic_authorization_opens_what_is_private(nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AccessDeniedError):
        opened(nginx.url, "private/model.ckpt")
    monkeypatch.setenv("PREHEAT_HTTP_USERNAME", USERNAME)
    monkeypatch.setenv("PREHEAT_HTTP_PASSWORD", PASSWORD)
    assert_reads(opened(nginx.url, "private/model.ckpt"))


def test_a_file_that_is_not_there_is_named(nginx: Nginx) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"nothing\.ckpt"):
        opened(nginx.url, "plain/nothing.ckpt")


def test_a_server_that_ignores_ranges_is_refused(nginx: Nginx) -> None:
    with pytest.raises(CheckpointSourceError, match="range"):
        opened(nginx.url, "whole/model.ckpt")


@pytest.mark.parametrize("path", ["plain", "untagged"])
def test_a_file_that_is_replaced_meanwhile_is_refused(nginx: Nginx, path: str) -> None:
    file = nginx.files / f"moving-{path}.ckpt"
    file.write_bytes(CONTENT)
    os.utime(file, (1_700_000_000, 1_700_000_000))
    blob = opened(nginx.url, f"{path}/{file.name}")
    replaced = file.with_suffix(".new")
    replaced.write_bytes(CONTENT[::-1])
    replaced.rename(file)
    with pytest.raises(SourceChangedError, match="replaced"):
        blob.read(0, 10)
    blob.close()


def test_a_file_without_any_version_is_refused(nginx: Nginx) -> None:
    with pytest.raises(CheckpointSourceError, match="neither ETag nor Last-Modified"):
        opened(nginx.url, "unversioned/model.ckpt")


def test_a_checkpoint_becomes_a_bundle_in_a_few_requests(nginx: Nginx, tmp_path: Path) -> None:
    weights = {"w": torch.randn(300, 100), "b": torch.randn(100)}
    optimizer = {"state": {0: {"exp_avg": torch.randn(300, 1000)}}}
    torch.save({"state_dict": weights, "optimizer_states": [optimizer]}, nginx.files / "run.ckpt")
    before = len(nginx.requests())
    spec = parse({"stages": [{"http": {"url": f"{nginx.url}/moved/run.ckpt"}}, {"weightsOnly": {}}]})
    outcome = prepare(spec, Store(tmp_path), "test")
    assert outcome.manifest.source.version.startswith('etag:"')
    assert outcome.fetched_bytes < 250_000
    assert outcome.manifest.tensors.keys() == weights.keys()
    asked = nginx.requests()[before:]
    assert len(asked) <= 8
    assert {line.split()[2] for line in asked} == {"302", "206"}
    blob = opened(nginx.url, "plain/run.ckpt")
    assert read_index(blob).tensors.keys() == weights.keys()
    blob.close()
