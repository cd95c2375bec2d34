import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from formats.samples import saved
from loader.loader_process import POD, load
from sources.fault_server import FaultServer

from preheat.blob import Patience
from preheat.bundle.data import CheckpointData, open_bundle, open_checkpoint
from preheat.checks import Checks
from preheat.context import CheckpointContext
from preheat.errors import CheckpointValidationError, NotABundleError
from preheat.sources.http import HTTPSource

WEIGHT, MOMENT = torch.randn(300, 200), torch.randn(50_000)
TREE = {
    "state_dict": {"w": WEIGHT, "tied": WEIGHT},
    "optimizer_states": [{"state": {0: {"exp_avg": MOMENT}}}],
    "epoch": 3,
    "pytorch-lightning_version": "2.6.6",
}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        running.serve("/model.ckpt", saved(TREE))
        yield running


def opened(server: FaultServer) -> tuple[CheckpointContext, CheckpointData]:
    blob = HTTPSource(server.origin + "/model.ckpt").open(Patience())
    context = open_checkpoint(blob, CheckpointContext())
    assert isinstance(context.checkpoint_data, CheckpointData)
    return context, context.checkpoint_data


def test_a_checkpoint_opens_without_its_payload_and_reads_what_is_asked_for(server: FaultServer) -> None:
    context, data = opened(server)
    before = server.sent
    assert before < 100_000
    assert set(data) == {"state_dict", "optimizer_states", "epoch", "pytorch-lightning_version"}
    assert (data["epoch"], list(data["state_dict"]), len(data), "epoch" in data) == (3, ["w", "tied"], 4, True)
    assert server.sent == before
    assert torch.equal(data["state_dict"]["tied"], WEIGHT)
    assert torch.equal(data["optimizer_states"][0]["state"][0]["exp_avg"], MOMENT)
    assert (context.checkpoint_format, context.checkpoint_path) == ("lightning", server.origin + "/model.ckpt")
    assert context.metadata["source_size_bytes"] == data.blob.size
    with pytest.raises(KeyError):
        data["nothing"]
    data.close()


def test_a_later_verify_stage_rules_what_is_checked(server: FaultServer) -> None:
    context, data = opened(server)
    server.always(flip=data.index.tensors["w"].start + 7)
    with pytest.raises(CheckpointValidationError, match="CRC"):
        data["state_dict"]["w"]
    context.checks = Checks(crc32=False)
    assert not torch.equal(data["state_dict"]["w"], WEIGHT)
    data.close()


def test_a_bundle_gives_the_tied_names_and_the_state_back(server: FaultServer, tmp_path: Path) -> None:
    load([{"http": {"url": server.origin + "/model.ckpt"}}, {"weightsOnly": {}}], tmp_path / "volume")
    data = open_bundle(tmp_path / "volume" / "pods" / POD / "bundle")
    assert torch.equal(data["state_dict"]["tied"], WEIGHT)
    assert (data["epoch"], data.index.layout, data.index.parameters) == (3, "lightning", 60_000)
    data.close()


def test_a_bundle_that_differs_from_its_manifest_is_refused(server: FaultServer, tmp_path: Path) -> None:
    load([{"http": {"url": server.origin + "/model.ckpt"}}, {"weightsOnly": {}}], tmp_path / "volume")
    folder = (tmp_path / "volume" / "pods" / POD / "bundle").resolve()
    document = json.loads((folder / "manifest.json").read_text())
    document["tensors"]["w"]["shape"] = [1]
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(NotABundleError, match="'w' differs from its manifest"):
        open_bundle(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(NotABundleError, match=r"not a complete bundle: No such file.*Run the loader again"):
        open_bundle(folder)
