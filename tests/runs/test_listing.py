"""One recursive listing of every kind of place that has one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from legacy import noether_files
from legacy.noether_files import RUN, position
from sources import s3_server

from preheat import CheckpointContext, CheckpointPipeline
from preheat.blob import Patience
from preheat.errors import AccessDeniedError, CheckpointConfigError, CheckpointNotFoundError, CheckpointSourceError
from preheat.runs.listing import Listing
from preheat.sources import s3_listing
from preheat.sources.fsspec import FsspecSource
from preheat.sources.http import HTTPSource
from preheat.sources.hugging_face import HuggingFaceSource
from preheat.sources.local import LocalSource
from preheat.sources.run import RunSource
from preheat.sources.s3 import S3Source
from preheat.stage import Place
from preheat.strategies.warm_start import WarmStartLoader

FILES = ("run/checkpoints/a.ckpt", "run/checkpoints/b +1.ckpt", "run/log/x/y.txt", "other/last.ckpt")
needs_server = pytest.mark.skipif(
    s3_server.executable() is None, reason="versitygw is not built; `make test` or tests/cluster builds it"
)


def listing(place: Place, path: str = "") -> Listing:
    return Listing((place.below(path) if path else place).tree(Patience(1, 10)))


def paths(place: Place, path: str = "") -> dict[str, int]:
    return {entry.path: entry.size for entry in listing(place, path).entries}


def write(folder: Path) -> None:
    for size, name in enumerate(FILES, 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * size)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("s3")
    with s3_server.running(folder) as url:
        s3_server.client(url).create_bucket(Bucket="runs")
        write(folder / "buckets" / "runs")
        many = folder / "buckets" / "runs" / "many" / "checkpoints"
        many.mkdir(parents=True)
        for epoch in range(1_200):
            (many / f"m_cp=E{epoch}_U{epoch}_S{epoch}_model.th").write_bytes(b"x")
        yield url


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3Source:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET_KEY)
    return S3Source("runs", "/", endpoint=endpoint, addressing="path")


def test_a_folder_of_this_machine(tmp_path: Path) -> None:
    write(tmp_path)
    assert paths(LocalSource(str(tmp_path))) == {name: size for size, name in enumerate(FILES, 1)}
    assert paths(LocalSource(str(tmp_path)), "run/checkpoints/") == {"a.ckpt": 1, "b +1.ckpt": 2}
    assert paths(LocalSource(str(tmp_path / "nowhere"))) == {}
    [entry] = listing(LocalSource(str(tmp_path)), "other/").entries
    assert entry.modified == (tmp_path / "other" / "last.ckpt").stat().st_mtime


def test_links_are_followed_to_files_and_to_folders_beside_them(tmp_path: Path) -> None:
    """Lightning's `last.ckpt` may be a link; Noether's `ancestor` leads to another run."""
    write(tmp_path)
    run = tmp_path / "run"
    (run / "epoch=1.ckpt").mkdir()
    (run / "epoch=1.ckpt" / ".metadata").write_bytes(b"x")
    (run / "last.ckpt").symlink_to("epoch=1.ckpt")
    (run / "newest.ckpt").symlink_to("checkpoints/a.ckpt")
    (run / "ancestor").symlink_to("../other")
    (run / "itself").symlink_to(".")
    (run / "broken").symlink_to("nothing")
    for aside in (".snapshot", "lost+found"):
        (run / aside).mkdir()
        (run / aside / "last.ckpt").write_bytes(b"x")
    found = paths(LocalSource(str(tmp_path)), "run/")
    assert {"last.ckpt/.metadata", "newest.ckpt", "epoch=1.ckpt/.metadata"} <= found.keys()
    assert not [path for path in found if path.startswith(("ancestor", "itself", "broken", ".snap", "lost"))]


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "run").chmod(0)
    try:
        if os.access(tmp_path / "run", os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(AccessDeniedError):
            listing(LocalSource(str(tmp_path)))
    finally:
        (tmp_path / "run").chmod(0o755)


@needs_server
def test_keys_of_a_bucket(bucket: S3Source) -> None:
    expected = {"checkpoints/a.ckpt": 1, "checkpoints/b +1.ckpt": 2, "log/x/y.txt": 3}
    assert paths(bucket, "run/") == paths(bucket, "run") == expected
    found = listing(bucket, "run/")
    assert abs(found.entries[0].modified - time.time()) < 3600
    assert found.uri == "s3://runs/run/"
    blob = found.folder("checkpoints").open("b +1.ckpt")
    assert (blob.uri, blob.read(0, 2)) == ("s3://runs/run/checkpoints/b +1.ckpt", b"xx")
    blob.close()
    assert paths(bucket, "nowhere/") == {}


@needs_server
def test_a_thousand_keys_take_one_request_and_more_another(bucket: S3Source, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[s3_listing.Page] = []
    read = s3_listing.read_page
    monkeypatch.setattr(s3_listing, "read_page", lambda *answer: pages.append(read(*answer)) or pages[-1])
    candidates = RunSource(bucket, run_id="many").selection(Patience(1, 10))
    assert (len(candidates), len(pages), pages[-1].token) == (1_200, 2, "")
    newest = next(iter(candidates))
    assert newest.checkpoint.tag == "E1199_U1199_S1199"
    assert next(iter(newest.source.selection(Patience(1, 10)))).checkpoint == newest.checkpoint
    assert len(pages) == 2, "what was listed need not be listed again"


@needs_server
def test_a_run_in_a_bucket_is_loaded_as_one_on_a_disk(bucket: S3Source, tmp_path: Path) -> None:
    saved = torch.nn.Linear(3, 2)
    noether_files.save_all(tmp_path, "m", position(4), saved)
    client = s3_server.client(str(bucket.endpoint))
    for file in tmp_path.iterdir():
        client.upload_file(str(file), "runs", f"out/{RUN}/checkpoints/{file.name}")
    client.put_object(Bucket="runs", Key=f"out/{RUN}/checkpoints/m_cp={position(5)}_model.th", Body=b"")
    target = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(target.parameters())
    stages = [RunSource(bucket.below("out/"), run_id=RUN), WarmStartLoader()]
    context = CheckpointPipeline(stages).execute_sync(CheckpointContext(model=target, optimizer=optimizer))
    assert torch.equal(target.weight, saved.weight)
    assert context.get_metadata("source_uri") == f"s3://runs/out/{RUN}/checkpoints/m_cp={position(4)}_model.th"
    assert context.get_metadata("global_step") == 40


@needs_server
def test_refused_listings_say_which_right_is_missing(bucket: S3Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(AccessDeniedError, match=r"s3:ListBucket"):
        listing(bucket)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET_KEY)
    with pytest.raises(CheckpointNotFoundError, match="there is no bucket 'nobody'"):
        listing(S3Source("nobody", "runs/", endpoint=bucket.endpoint, addressing="path"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"no XML",
        b'<?xml version="1.0" encoding="UTF-9"?><ListBucketResult/>',  # found by make fuzz
        b'<!DOCTYPE a [<!ENTITY b "c">]><ListBucketResult/>',
        b"<ListBucketResult><Contents><Key>a</Key><Size>many</Size></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Key><LastModified>today</LastModified></Contents></ListBucketResult>",
    ],
)
def test_what_is_no_listing_is_refused(content: bytes) -> None:
    with pytest.raises(CheckpointSourceError, match="does not answer a listing as S3 does"):
        s3_listing.read_page(content, "", "s3://b/")


def test_what_fsspec_lists(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    write(tmp_path)
    place = FsspecSource(f"file://{tmp_path}")
    assert paths(place, "run/") == {"checkpoints/a.ckpt": 1, "checkpoints/b +1.ckpt": 2, "log/x/y.txt": 3}
    assert paths(place, "nowhere/") == {}
    [entry] = listing(place, "other/").entries
    assert entry.modified == pytest.approx((tmp_path / "other" / "last.ckpt").stat().st_mtime)
    blob = listing(place, "run/").open("checkpoints/b +1.ckpt")
    assert blob.read(0, 2) == b"xx"
    blob.close()


@pytest.mark.parametrize("place", [HTTPSource("https://models/runs/"), HuggingFaceSource("org/model")], ids=str)
def test_a_place_without_listing_says_what_to_do(place: Place) -> None:
    with pytest.raises(
        CheckpointConfigError, match=r"cannot be listed.*Name the checkpoint itself.*local, s3 or fsspec"
    ):
        RunSource(place).selection(Patience(0, 1))


def test_more_files_than_anyone_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preheat.runs.listing.MAX_ENTRIES", 3)
    write(tmp_path)
    with pytest.raises(CheckpointSourceError, match="Name the run's own folder"):
        listing(LocalSource(str(tmp_path)))
