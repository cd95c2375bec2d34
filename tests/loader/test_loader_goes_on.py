"""`onFailure: Continue` in the loader: what it passes over, what it never does, and what the training is told."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import saved
from loader.loader_process import POD, Ended, finish, load, start
from loader.test_loader import wait_for
from sources.fault_server import FaultServer

from preheat.bundle.absence import Absence, absence_in
from preheat.bundle.contents import survey
from preheat.bundle.store import Store
from preheat.errors import CheckpointError, CheckpointNotFoundError, NotABundleError
from preheat.spec import parse

CHECKPOINT = saved({"state_dict": {"layer.weight": torch.ones(300, 200)}})
BAD = saved({"state_dict": {"layer.weight": torch.full((3, 2), torch.nan)}})
DIGEST = {"verify": {"sha256": "0" * 64}}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        running.serve("/model.ckpt", CHECKPOINT)
        running.serve("/bad.ckpt", BAD)
        running.serve("/cut.ckpt", CHECKPOINT[:-300])
        running.serve("/no.ckpt", b"no checkpoint at all, " * 100)
        yield running


def stages(server: FaultServer, name: str = "model.ckpt", *checks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"http": {"url": f"{server.origin}/{name}"}}, *checks, {"weightsOnly": {}}]


def going_on(stages: list[dict[str, Any]], volume: Path, **settings: Any) -> Ended:
    return load(stages, volume, onFailure="Continue", **settings)


def test_a_checkpoint_that_is_not_there_is_passed_over_and_everybody_is_told(
    server: FaultServer, tmp_path: Path
) -> None:
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "sitecustomize.py").touch()
    given = {"PREHEAT_SHIM": "auto", "PREHEAT_SHIM_FOLDER": str(tmp_path / "shim")}
    ended = going_on(stages(server, "gone.ckpt"), tmp_path / "volume", **given)
    assert ended.code == 0
    assert (ended.message["outcome"], ended.message["reason"]) == ("continued", "NotFound")
    assert "gone.ckpt" in ended.message["message"]
    assert "NotFound: http://" in ended.log
    assert "NO CHECKPOINT: the training goes on from its initial weights, as onFailure: Continue asks" in ended.log
    folder = tmp_path / "volume" / "pods" / POD
    assert (folder / "shim" / "sitecustomize.py").exists()
    assert [path.name for path in (folder / "bundle").iterdir()] == ["absence.json"]
    absence = absence_in(folder / "bundle")
    assert absence is not None
    assert (absence.pipeline, type(absence.error)) == ("finetune", CheckpointNotFoundError)
    assert str(absence.error) == f"{ended.message['message']}. {ended.message['remedy']}".removesuffix(". ")


def test_without_the_policy_the_same_fails_and_leaves_nothing(server: FaultServer, tmp_path: Path) -> None:
    for policy in ({}, {"onFailure": "Fail"}):
        ended = load(stages(server, "gone.ckpt"), tmp_path / "volume", **policy)
        assert (ended.code, ended.message["outcome"]) == (11, "failed")
        assert not (tmp_path / "volume" / "pods" / POD).exists()


def test_it_goes_on_only_when_the_retries_are_used_up(server: FaultServer, tmp_path: Path) -> None:
    server.next(2, status=503)
    assert going_on(stages(server), tmp_path / "volume", maxRetries=2).message["outcome"] == "loaded"
    server.always(status=503)
    asked = len(server.requests)
    ended = going_on(stages(server), tmp_path / "another", maxRetries=2)
    assert (ended.code, ended.message["reason"]) == (0, "SourceUnreachable")
    assert len(server.requests) == asked + 3


def test_it_goes_on_after_the_deadline(server: FaultServer, tmp_path: Path) -> None:
    server.always(stall_after=1000)
    ended = going_on(stages(server), tmp_path / "volume", PREHEAT_DEADLINE="1")
    assert (ended.code, ended.message["outcome"], ended.message["reason"]) == (0, "continued", "Timeout")
    assert "not done within 1 s" in ended.log


@pytest.mark.parametrize(
    ("name", "checks", "reason", "code"),
    [
        ("model.ckpt", [DIGEST], "Corrupt", 30),
        ("bad.ckpt", [{"verify": {"finite": True}}], "Corrupt", 30),
        ("cut.ckpt", [], "Truncated", 22),
        ("no.ckpt", [], "UnsupportedFormat", 21),
        ("model.ckpt", [{"verify": {"etag": "other"}}], "SourceChanged", 14),
    ],
    ids=["digest", "NaN", "cut", "no checkpoint", "another ETag"],
)
def test_bytes_that_are_not_good_are_never_passed_over(
    server: FaultServer, tmp_path: Path, name: str, checks: list[dict[str, Any]], reason: str, code: int
) -> None:
    ended = going_on(stages(server, name, *checks), tmp_path / "volume")
    assert (ended.message["reason"], ended.code) == (reason, code), ended.log
    assert not (tmp_path / "volume" / "pods" / POD).exists()


def test_a_pipeline_that_is_wrong_is_never_passed_over(tmp_path: Path) -> None:
    ended = going_on([{"s4": {}}], tmp_path / "volume")
    assert (ended.code, ended.message["outcome"]) == (2, "failed")


def test_a_loader_that_is_stopped_with_its_pod_does_not_go_on(server: FaultServer, tmp_path: Path) -> None:
    server.always(stall_after=1000)
    process = start(stages(server), tmp_path / "volume", onFailure="Continue")
    wait_for(lambda: server.requests)
    process.terminate()
    assert finish(process, tmp_path / "volume").code == 143


def test_a_failure_that_cannot_be_told_to_the_training_fails(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "pods").write_text("in the way")
    ended = going_on(stages(server, "gone.ckpt"), tmp_path / "volume")
    assert (ended.code, ended.message["outcome"], ended.message["reason"]) == (11, "failed", "NotFound")
    assert "to go on without it, the training would have to be told" in ended.message["message"]


def test_a_loader_that_runs_again_tries_again(server: FaultServer, tmp_path: Path) -> None:
    going_on(stages(server, "late.ckpt"), tmp_path / "volume")
    server.serve("/late.ckpt", CHECKPOINT)
    assert going_on(stages(server, "late.ckpt"), tmp_path / "volume").message["outcome"] == "loaded"
    bundle = tmp_path / "volume" / "pods" / POD / "bundle"
    assert bundle.is_symlink()
    assert absence_in(bundle) is None


def test_a_pod_without_a_bundle_holds_none_on_the_volume(server: FaultServer, tmp_path: Path) -> None:
    going_on(stages(server, "gone.ckpt"), tmp_path / "volume")
    [pod] = survey(tmp_path / "volume").pods
    assert (pod.uid, pod.digest, pod.finished) == (POD, None, True)
    assert Store(tmp_path / "volume").attached(POD) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"reason": "NotFound"}', "\xff"], ids=repr)
def test_an_absence_that_cannot_be_read_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "absence.json").write_text(text, encoding="latin-1")
    with pytest.raises(NotABundleError, match="cannot be read"):
        absence_in(tmp_path)


def test_a_message_of_any_length_is_told_and_read_again(tmp_path: Path) -> None:
    name = "/" + "\N{GRINNING FACE}" * 4000
    ended = going_on([{"local": {"path": name}}, {"weightsOnly": {}}], tmp_path / "volume")
    assert (ended.code, ended.message["outcome"]) == (0, "continued")
    absence = absence_in(tmp_path / "volume" / "pods" / POD / "bundle")
    assert absence is not None
    assert str(absence.error).startswith("opening /\N{GRINNING FACE}")


def test_a_reason_of_another_version_is_an_error_that_is_not_passed_over(tmp_path: Path) -> None:
    document = {**Absence("p", CheckpointError("m")).to_json(), "reason": "Unheard"}
    (tmp_path / "absence.json").write_text(json.dumps(document))
    absence = absence_in(tmp_path)
    assert absence is not None
    assert (type(absence.error), absence.error.continuable) == (CheckpointError, False)


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(CheckpointError, match="onFailure: 'Ignore' is not Fail or Continue"):
        parse({"stages": [{"local": {"path": "/a"}}], "onFailure": "Ignore"})
