"""Digests of whole objects, taken while their bytes pass."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import BytesBlob, saved
from hypothesis import given
from hypothesis import strategies as st
from loader.loader_process import bundles, load
from safetensors.torch import load_file, save_file
from sources.fault_server import FaultServer
from verify.signing import PUBLIC, sign_folder

from preheat.checks import Checks, Findings
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, CheckpointValidationError, SourceChangedError, UntrustedError
from preheat.pipeline import CheckpointPipeline
from preheat.sources.local import LocalSource
from preheat.transfer.checksum import Crc64
from preheat.transfer.digests import Digests
from preheat.transfer.pace import Pace
from preheat.transfer.pieces import Piece
from preheat.verbs.verification import verify_checkpoint

SIGNED = Path(__file__).parent / "signed"
TREE = {"state_dict": {"a": torch.randn(3000), "t": torch.randn(60, 50).t()}, "optimizer_states": [torch.randn(5000)]}


def crc64(content: bytes) -> str:
    crc = Crc64()
    crc.update(memoryview(content))
    return crc.hexdigest()


def declared(content: bytes, name: str) -> dict[str, str]:
    if name == "crc64nvme in base64":
        return {"crc64nvme": base64.b64encode(bytes.fromhex(crc64(content))).decode()}
    if name == "crc64nvme":
        return {name: crc64(content)}
    return {name: hashlib.new(name, content).hexdigest()}


def wrong(name: str) -> dict[str, str]:
    return declared(b"something else", name)


@pytest.fixture(params=["one cut", "many cuts"])
def cuts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many cuts":
        for module in ("preheat.verbs.verification", "preheat.transfer.engine"):
            for pace in ("LOCAL", "REMOTE"):
                monkeypatch.setattr(f"{module}.{pace}", Pace(3, 1000, 4096))


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        yield running


NAMES = ["sha256", "md5", "crc64nvme", "crc64nvme in base64"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("cuts")
def test_a_whole_object_is_what_is_declared_or_refused(name: str, server: FaultServer, tmp_path: Path) -> None:
    content = saved(TREE)
    (tmp_path / "x.ckpt").write_bytes(content)
    for where in (tmp_path / "x.ckpt", server.serve("/x.ckpt", content)):
        found = verify_checkpoint(where, **declared(content, name))
        assert found.fetched_bytes >= len(content)
        with pytest.raises(CheckpointValidationError, match=r"x\.ckpt has .* verify expects"):
            verify_checkpoint(where, **wrong(name))


@pytest.mark.usefixtures("cuts")
def test_several_digests_are_taken_in_one_pass(tmp_path: Path) -> None:
    content = saved({"w": torch.randn(100_000)})
    (tmp_path / "x.ckpt").write_bytes(content)
    every = {key: value for name in NAMES[:3] for key, value in declared(content, name).items()}
    found = verify_checkpoint(tmp_path / "x.ckpt", **every)
    assert found.fetched_bytes < 1.5 * len(content)
    for name in NAMES[:3]:
        with pytest.raises(CheckpointValidationError, match="verify expects"):
            verify_checkpoint(tmp_path / "x.ckpt", **{**every, **wrong(name)})


@pytest.mark.parametrize("name", NAMES)
def test_the_loader_publishes_only_what_is_declared(name: str, tmp_path: Path) -> None:
    content = saved(TREE)
    (tmp_path / "x.ckpt").write_bytes(content)
    source, rest = {"local": {"path": str(tmp_path / "x.ckpt")}}, {"weightsOnly": {}}
    bad = load([source, {"verify": wrong(name)}, rest], tmp_path / "volume")
    assert (bad.code, bad.message["reason"], bundles(tmp_path / "volume")) == (30, "Corrupt", [])
    good = load([source, {"verify": declared(content, name)}, rest], tmp_path / "volume")
    assert good.code == 0, good.log
    assert "of the whole object" in good.log
    [bundle] = bundles(tmp_path / "volume")
    assert torch.equal(load_file(bundle / "model.safetensors")["a"], TREE["state_dict"]["a"])
    field = name.partition(" ")[0]
    assert json.loads((bundle / "manifest.json").read_text())["checks"][field] == declared(content, field)[field]


@pytest.mark.usefixtures("cuts")
def test_a_crc_sees_the_bytes_that_nobody_wants(tmp_path: Path) -> None:
    content = bytearray(saved(TREE))
    expected = crc64(bytes(content))
    content[content.index(TREE["optimizer_states"][0].numpy().tobytes()) + 5000] ^= 1
    (tmp_path / "x.ckpt").write_bytes(content)
    stages = [{"local": {"path": str(tmp_path / "x.ckpt")}}, {"verify": {"crc64nvme": expected}}, {"weightsOnly": {}}]
    ended = load(stages, tmp_path / "volume")
    assert (ended.code, ended.message["reason"]) == (30, "Corrupt")
    assert "CRC-64/NVME" in ended.message["message"]


@given(st.binary(max_size=2000), st.lists(st.integers(0, 2000), max_size=8), st.randoms())
def test_parts_may_come_in_any_order(content: bytes, cuts: list[int], random: Any) -> None:
    digests = Digests(BytesBlob(content), Checks(crc64nvme=crc64(content)))
    borders = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    pieces = [Piece(start, stop, ()) for start, stop in pairwise(borders)]
    random.shuffle(pieces)
    for piece in pieces:
        digests.of(piece)(memoryview(content[piece.start : piece.stop]))
    digests.compare(Findings())


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), max_size=6), st.integers(1, 300))
def test_pieces_that_cover_an_object_hold_every_byte_once(gaps: list[tuple[int, int]], length: int) -> None:
    weights = {f"w{number}": torch.zeros(size) for number, (size, _) in enumerate(gaps)} or {"w": torch.zeros(1)}
    content = saved(weights)
    blob = BytesBlob(content)
    seen = sorted((p.start, p.stop) for p in Digests(blob, Checks(crc64nvme="0" * 16)).pieces((), length))
    assert [start for start, _ in seen] == [0, *(stop for _, stop in seen[:-1])]
    assert seen[-1][1] == len(content)


# The ETag.


def test_an_etag_is_compared_before_anything_is_read(server: FaultServer) -> None:
    content = saved(TREE)
    url = server.serve("/x.ckpt", content)
    server.etags["/x.ckpt"] = '"96cfba1c176092dd61e404c9e1fd94ce-79"'
    for good in ('"96cfba1c176092dd61e404c9e1fd94ce-79"', "96cfba1c176092dd61e404c9e1fd94ce-79"):
        assert verify_checkpoint(url, etag=good).checks.etag == good
    with pytest.raises(SourceChangedError, match=r"has the ETag \"96cf.*-79\", verify expects abc"):
        verify_checkpoint(url, etag="abc")


def test_a_file_has_no_etag(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(saved(TREE))
    with pytest.raises(CheckpointConfigError, match="no ETag that verify could compare"):
        verify_checkpoint(tmp_path / "x.ckpt", etag="abc")


# Several files, and signatures.


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    names = {}
    for number in (1, 2, 3):
        file = f"model-{number:05}-of-00003.safetensors"
        save_file({f"w{number}": torch.randn(20_000 * number)}, folder / file)
        names[f"w{number}"] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    sign_folder(folder)
    return folder


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.usefixtures("cuts")
def test_every_file_of_a_signed_folder_is_held_against_its_signature(sharded: Path) -> None:
    trust = {"publicKey": PUBLIC}
    found = verify_checkpoint(sharded, signature=trust)
    assert len(found.checks.signed or ()) == 4
    assert found.fetched_bytes < 1.5 * found.size_bytes
    flip(sharded / "model-00002-of-00003.safetensors", 3000)
    with pytest.raises(UntrustedError, match=r"model-00002-of-00003\.safetensors has SHA-256 .*, signed is"):
        verify_checkpoint(sharded, signature=trust)


def test_a_signature_costs_no_second_pass_over_the_network(sharded: Path, server: FaultServer) -> None:
    for path in sharded.iterdir():
        server.serve(f"/model/{path.name}", path.read_bytes())
    url = server.serve("/model/model.safetensors.index.json", (sharded / "model.safetensors.index.json").read_bytes())
    found = verify_checkpoint(url, signature={"publicKey": PUBLIC})
    assert found.fetched_bytes < 1.5 * found.size_bytes


def test_what_is_not_signed_is_not_taken(sharded: Path, tmp_path: Path) -> None:
    signature = {"signature": {"publicKey": PUBLIC}}
    (sharded / "model.sig").rename(sharded / "other.sig")
    stages = [{"local": {"path": str(sharded)}}, {"verify": signature}, {"weightsOnly": {}}]
    ended = load(stages, tmp_path / "volume")
    assert (ended.code, ended.message["reason"], bundles(tmp_path / "volume")) == (31, "Untrusted", [])
    assert "is not signed: there is no file" in ended.message["message"]
    lone = sharded / "extra.safetensors"
    save_file({"w": torch.zeros(3)}, lone)
    with pytest.raises(UntrustedError, match=r"does not list 'extra\.safetensors'; it lists model-00001"):
        verify_checkpoint(lone, signature={"public_key": PUBLIC, "file": "other.sig"})


@pytest.mark.parametrize(("signature", "key"), [("p256.sig", "p256.pem"), ("one.sig", "p384.pem")])
def test_one_file_that_the_library_signed_is_loaded(signature: str, key: str, tmp_path: Path) -> None:
    verify = {"signature": {"publicKey": (SIGNED / key).read_text(), "file": signature}}
    stages = [{"local": {"path": str(SIGNED / "model.safetensors")}}, {"verify": verify}, {"weightsOnly": {}}]
    ended = load(stages, tmp_path / "volume")
    assert ended.code == 0, ended.log
    [bundle] = bundles(tmp_path / "volume")
    assert list(json.loads((bundle / "manifest.json").read_text())["checks"]["signed"]) == ["model.safetensors"]


def test_a_digest_of_one_object_is_not_one_of_several_files(sharded: Path) -> None:
    with pytest.raises(CheckpointConfigError, match="has 4 files, and sha256 and md5 would be of one"):
        verify_checkpoint(sharded, sha256="0" * 64, md5="0" * 32)


# In one process.


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., CheckpointContext]:
    def execute(path: Path, **verify: Any) -> CheckpointContext:
        stages = [{"local": {"path": str(path)}}, {"verify": verify}, {"weightsOnly": {}}]
        model = torch.nn.ParameterDict({f"w{number}": torch.zeros(20_000 * number) for number in (1, 2, 3)})
        pipeline = CheckpointPipeline(stages=stages, async_execution=False)
        context: CheckpointContext = pipeline.execute(CheckpointContext(model=model))
        return context

    return execute


def test_one_process_verifies_signature_and_digest_before_the_model_is_touched(
    sharded: Path, run: Callable[..., CheckpointContext]
) -> None:
    trust = {"publicKey": PUBLIC}
    assert run(sharded, signature=trust, expect={"tensors": 3}).model["w1"].any()
    flip(sharded / "model-00003-of-00003.safetensors", 5000)
    with pytest.raises(UntrustedError):
        run(sharded, signature=trust)
    with pytest.raises(CheckpointConfigError, match="would be of one"):
        run(sharded, md5="0" * 32)
    assert "warnings" not in run(sharded).metadata


def test_a_source_that_is_in_no_folder_says_so() -> None:
    class Lonely(LocalSource):
        beside = LocalSource.__mro__[1].beside  # that of every source

    with pytest.raises(CheckpointConfigError, match=r"in no folder that could hold 'model\.sig'"):
        Lonely("/x").beside("model.sig")
