"""What `preheat ls`, `info`, `tag` and `prune` do to a folder on a disk."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from uploading.checkpoints_to_send import point, save, tree

from preheat.cli import app
from preheat.errors import CheckpointLoadError
from preheat.resume.starts import Starts
from preheat.runs import removal
from preheat.runs.removal import prune
from preheat.runs.retention import Retention
from preheat.runs.shelf import Shelf
from preheat.sources.local import LocalSource

NAMES = [f"net_cp=E{epoch}_U{10 * epoch}_S{100 * epoch}" for epoch in range(1, 6)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with five checkpoints, of which the second is the best."""
    home = tmp_path / "exp-7" / "checkpoints"
    for age, name in enumerate(reversed(NAMES)):
        folder = save(home, name)
        for path in (*folder.iterdir(), folder):
            os.utime(path, (time.time() - 100 * age,) * 2)
    point(home, "latest", NAMES[4])
    point(home, "best.loss", NAMES[1])
    return home


def preheat(*words: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.output.splitlines()[0])


def folders(home: Path) -> list[str]:
    return sorted(path.name for path in home.iterdir() if path.is_dir())


def test_ls_shows_the_newest_first_and_what_points_to_it(run: Path) -> None:
    found = preheat("ls", str(run.parent))["checkpoints"]
    assert [each["path"] for each in found] == [f"checkpoints/{name}/" for name in reversed(NAMES)]
    assert [each["knownAs"] for each in found] == [["latest"], [], [], ["best.loss"], []]
    assert found[0]["position"] == "E5_U50_S500"
    shown = CliRunner().invoke(app, ["ls", str(run)], env={"COLUMNS": "160"}).output
    assert "best.loss" in shown
    assert "5 checkpoints" in shown


def test_info_tells_of_the_newest_one_unless_another_is_named(run: Path) -> None:
    (run / NAMES[4] / "manifest.json").unlink()
    assert preheat("info", str(run))["path"] == f"{NAMES[3]}/"
    assert preheat("info", str(run), "best.loss")["path"] == f"{NAMES[1]}/"
    assert preheat("info", str(run), NAMES[4])["incomplete"]
    assert "NotFound" in CliRunner().invoke(app, ["info", str(run), "nothing"]).output


def test_prune_only_says_what_would_go(run: Path) -> None:
    before = tree(run)
    answer = preheat("prune", str(run), "--keep-last", "2")
    assert answer["outcome"] == "planned"
    assert [each["path"] for each in answer["checkpoints"] if not each["stays"]] == [f"{NAMES[2]}/", f"{NAMES[0]}/"]
    assert tree(run) == before
    shown = CliRunner().invoke(app, ["prune", str(run), "--keep-last", "2"], env={"COLUMNS": "160"}).output
    assert "best.loss points to it" in shown
    assert "add --yes" in shown


def test_prune_removes_what_nothing_keeps(run: Path) -> None:
    assert preheat("prune", str(run), "--keep-last", "2", "--yes")["outcome"] == "pruned"
    assert folders(run) == [NAMES[1], NAMES[3], NAMES[4]]


def test_prune_without_a_rule_removes_nothing(run: Path) -> None:
    preheat("prune", str(run), "--yes")
    assert folders(run) == NAMES


def test_a_tag_protects_until_it_is_taken_away(run: Path) -> None:
    assert preheat("tag", str(run), NAMES[0], "release-1")["pointer"] == "net_cp=release-1.json"
    prune(LocalSource(str(run)), Retention(last=1))
    assert folders(run) == [NAMES[0], NAMES[1], NAMES[4]]
    assert preheat("info", str(run), "release-1")["path"] == f"{NAMES[0]}/"
    preheat("tag", str(run), NAMES[0], "release-1", "--remove")
    prune(LocalSource(str(run)), Retention(last=1))
    assert folders(run) == [NAMES[1], NAMES[4]]


@pytest.mark.parametrize("tag", ["latest", "best.loss", "E10", "a/b"])
def test_names_that_trainings_give_are_no_tags(run: Path, tag: str) -> None:
    assert preheat("tag", str(run), NAMES[0], tag, code=2)["reason"] == "InvalidPipeline"


def test_a_pointer_that_makes_no_sense_stops_pruning(run: Path) -> None:
    (run / "net_cp=release.json").write_text("half")
    with pytest.raises(CheckpointLoadError, match=r"net_cp=release\.json names no checkpoint"):
        prune(LocalSource(str(run)), Retention(last=1))
    assert folders(run) == NAMES


def test_what_a_link_leads_to_stays(tmp_path: Path) -> None:
    for epoch in range(3):
        (tmp_path / f"epoch={epoch}-step={epoch}.ckpt").write_bytes(b"x")
    (tmp_path / "last.ckpt").symlink_to("epoch=0-step=0.ckpt")
    prune(LocalSource(str(tmp_path)), Retention(last=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "epoch=0-step=0.ckpt", "epoch=2-step=2.ckpt", "last.ckpt",
    ]  # fmt: skip


def test_one_that_a_training_began_from_stays_and_so_does_one_that_none_has_died_on(run: Path) -> None:
    mark = Starts(run.parent).begin(NAMES[4], "training-1", 0)
    [known] = [each for each in Shelf.look(LocalSource(str(run.parent))).known(metrics=False).used.items()]
    assert known == (f"checkpoints/{NAMES[4]}/", "training training-1")
    prune(LocalSource(str(run.parent)), Retention(last=1))
    assert folders(run) == [NAMES[1], NAMES[3], NAMES[4]]
    mark.remove()
    prune(LocalSource(str(run.parent)), Retention(last=1))
    assert folders(run) == [NAMES[1], NAMES[4]]


class Killed(BaseException):
    """As if the process were gone."""


def test_pruning_that_is_killed_leaves_no_half_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> None:
        (path / "model.safetensors").unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(removal, "remove_folder", killed)
        with pytest.raises(Killed):
            prune(LocalSource(str(run)), Retention(last=1))
    found = Shelf.look(LocalSource(str(run))).checkpoints
    assert [each.name for each in found] == [name for name in reversed(NAMES) if name != NAMES[0]]
    assert not any(each.incomplete for each in found)
    prune(LocalSource(str(run)), Retention(last=1))
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == [NAMES[1], NAMES[4]]
