import mmap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from formats.samples import saved
from sources import s3_server
from sources.fault_server import FaultServer

from preheat.errors import CheckpointConfigError, CheckpointLoadError
from preheat.sources.fsspec import FsspecSource
from preheat.sources.http import HTTPSource
from preheat.sources.hugging_face import HuggingFaceSource
from preheat.sources.local import LocalSource
from preheat.sources.s3 import S3Source
from preheat.verbs.inspection import Branch, branches, inspect
from preheat.verbs.location import S3Options, source_of

CONTENT = {
    "state_dict": {
        "encoder.0.weight": torch.randn(300, 200),
        "encoder.0.bias": torch.randn(300).to(torch.bfloat16),
        "head.weight": torch.randn(10, 300),
    },
    "optimizer_states": [{"state": {0: {"exp_avg": torch.randn(300, 200), "step": torch.tensor(7.0)}}}],
    "lr_schedulers": [],
    "epoch": 3,
    "global_step": 1200,
    "hyper_parameters": {"lr": 1e-3, "path": Path("somewhere")},
    "pytorch-lightning_version": "2.6.0",
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(CONTENT, tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        yield running


@pytest.mark.parametrize(
    ("location", "source"),
    [
        ("s3://bucket/a/key.ckpt", S3Source("bucket", "a/key.ckpt")),
        ("https://host/a.ckpt?token=1", HTTPSource("https://host/a.ckpt?token=1")),
        ("http://host/a.ckpt", HTTPSource("http://host/a.ckpt")),
        ("hf://org/model", HuggingFaceSource("org/model")),
        ("hf://org/model@v1/", HuggingFaceSource("org/model", "v1")),
        ("hf://org/model@refs%2Fpr%2F1/a/b.bin", HuggingFaceSource("org/model", "refs/pr/1", "a/b.bin")),
        ("hf://org/model/a/b@c.bin", HuggingFaceSource("org/model", file="a/b@c.bin")),
        ("GS://b/k", FsspecSource("gs://b/k")),
        ("file:///a/b", FsspecSource("file:///a/b")),
        ("/a/b.ckpt", LocalSource("/a/b.ckpt")),
        ("~/b.ckpt", LocalSource("~/b.ckpt")),
        ("b.ckpt", LocalSource("b.ckpt")),
        ("odd:name.ckpt", LocalSource("odd:name.ckpt")),
    ],
)
def test_the_scheme_decides_about_the_source(location: str, source: object) -> None:
    assert source_of(location) == source


def test_options_of_s3_belong_to_s3() -> None:
    options = S3Options("http://minio:9000", "eu-west-1", anonymous=True)
    found = source_of("s3://b/k", options)
    assert found == S3Source("b", "k", region="eu-west-1", endpoint="http://minio:9000", anonymous=True)
    with pytest.raises(CheckpointConfigError, match="is not in S3, so endpoint, region, anonymous means nothing"):
        source_of("/a/b", options)
    found = source_of("s3://b/k", S3Options(profile="lab", version_id="7"))
    assert found == S3Source("b", "k", profile="lab", version_id="7")


def test_half_an_address_on_the_hub_is_refused() -> None:
    with pytest.raises(CheckpointConfigError, match=r"names no repository.*hf://org/model@revision/file"):
        source_of("hf://model")


def test_a_scheme_that_fsspec_does_not_know_either_is_named() -> None:
    with pytest.raises(CheckpointConfigError, match=r"Protocol not known: htps.*Check the URL's scheme"):
        inspect("htps://host/a.ckpt")


@pytest.mark.parametrize("location", ["s3://bucket", "s3:///key", "s3://bucket/"])
def test_half_an_address_in_s3_is_refused(location: str) -> None:
    with pytest.raises(CheckpointConfigError, match="names no object"):
        source_of(location)


def test_an_inspection_tells_weights_from_the_rest(checkpoint: Path) -> None:
    found = inspect(str(checkpoint))
    assert (found.format, found.layout, found.size_bytes) == ("torch-zip", "lightning", checkpoint.stat().st_size)
    assert found.parameters == 300 * 200 + 300 + 3000
    assert found.weight_bytes == 4 * 300 * 200 + 2 * 300 + 4 * 3000
    assert (found.state_tensors, found.state_bytes) == (2, 4 * 300 * 200 + 4)
    assert (found.state["epoch"], found.state["global_step"]) == (3, 1200)
    assert found.state["hyper_parameters"]["lr"] == 1e-3
    assert any("Path" in name for name in found.opaque)
    written = found.to_json()
    assert written["tensors"]["encoder.0.bias"] == {"dtype": "BF16", "shape": [300], "bytes": 600}
    assert written["source"]["version"].startswith("file:")


def test_a_pattern_selects_tensors(checkpoint: Path) -> None:
    assert list(inspect(checkpoint, match=r"\.bias$").tensors) == ["encoder.0.bias"]
    with pytest.raises(CheckpointConfigError, match="not a regular expression"):
        inspect(checkpoint, match="(")


def test_tied_weights_count_once(tmp_path: Path) -> None:
    shared = torch.randn(50)
    torch.save({"a": shared, "b": shared}, tmp_path / "tied.pt")
    found = inspect(tmp_path / "tied.pt")
    assert (found.parameters, found.weight_bytes, len(found.tensors)) == (50, 200, 2)


def test_payload_stays_where_it_is(server: FaultServer) -> None:
    payload = {f"layers.{n}.weight": torch.zeros(1024, 256) for n in range(100)}  # 100 MiB
    url = server.serve("/large.ckpt", saved({"state_dict": payload, "epoch": 1}))
    found = inspect(url)
    assert (len(found.tensors), found.state["epoch"]) == (100, 1)
    assert max(found.fetched_bytes, server.sent) < 200_000


def test_two_gibibytes_behind_a_url_answer_within_a_second(server: FaultServer, tmp_path: Path) -> None:
    with torch.serialization.skip_data():  # the file has holes where the values would be
        torch.save({f"layers.{n}.weight": torch.empty(1 << 24) for n in range(33)}, tmp_path / "huge.pt")
    with (tmp_path / "huge.pt").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        url = server.serve("/huge.pt", content)  # type: ignore[arg-type]
        server.etags["/huge.pt"] = '"huge"'
        found = inspect(url)
    assert found.size_bytes > 2 << 30
    assert max(found.fetched_bytes, server.sent) < 1 << 20
    assert found.seconds < 1


@pytest.mark.skipif(s3_server.executable() is None, reason="versitygw is not built; `make test` builds it")
def test_an_object_in_s3_is_inspected(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET_KEY)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    (tmp_path / "s3").mkdir()
    with s3_server.running(tmp_path / "s3") as endpoint:
        client = s3_server.client(endpoint)
        client.create_bucket(Bucket="models")
        client.upload_file(str(checkpoint), "models", "a/model.ckpt")
        found = inspect(source_of("s3://models/a/model.ckpt", S3Options(endpoint, "us-east-1")))
    assert (found.uri, len(found.tensors)) == ("s3://models/a/model.ckpt", 3)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_text("<html>")
    with pytest.raises(CheckpointLoadError, match=r"x\.ckpt: this looks like a web page"):
        inspect(tmp_path / "x.ckpt")


def test_the_tree_follows_the_names_and_sums_what_it_hides(checkpoint: Path) -> None:
    tensors = inspect(checkpoint).tensors
    assert list(branches(tensors, 1)) == [
        Branch("encoder.0", 0, 2, 60_300, 240_600, ("F32", "BF16")),
        Branch("head.weight", 0, 1, 3000, 12_000, ("F32",), (10, 300)),
    ]
    deep = list(branches(tensors, 9))
    assert [(branch.name, branch.level) for branch in deep] == [
        ("encoder.0", 0), ("weight", 1), ("bias", 1), ("head.weight", 0),
    ]  # fmt: skip
    assert deep[2].shape == (300,)


def test_a_tensor_may_be_called_like_the_branch_of_others(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1), "a.b": torch.zeros(2), "a.b.c": torch.zeros(3)}, tmp_path / "x.pt")
    found = [(branch.name, branch.level, branch.tensors) for branch in branches(inspect(tmp_path / "x.pt").tensors, 9)]
    assert found == [("a", 0, 3), (".", 1, 1), ("b", 1, 2), (".", 2, 1), ("c", 2, 1)]


def test_numbered_neighbours_that_look_alike_are_one_branch(tmp_path: Path) -> None:
    tensors = {f"layers.{n}.{part}": torch.zeros(4, 2) for n in range(12) for part in ("q.weight", "k.weight")}
    torch.save(tensors | {"layers.12.q.weight": torch.zeros(9), "layers.13": torch.zeros(1)}, tmp_path / "x.pt")
    found = list(branches(inspect(tmp_path / "x.pt").tensors, 9))
    assert [(branch.name, branch.level, branch.tensors, branch.shape) for branch in found] == [
        ("layers", 0, 26, None),
        ("0...11", 1, 24, None),
        ("q.weight", 2, 12, (4, 2)),
        ("k.weight", 2, 12, (4, 2)),
        ("12.q.weight", 1, 1, (9,)),
        ("13", 1, 1, (1,)),
    ]
    assert found[0].size == sum(branch.size for branch in found if branch.level == 1)
