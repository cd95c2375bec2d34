"""`--check`: the legacy rule beside ours, on files in each system's layout."""

import json
import os

import pytest
import torch
from legacy import lightning_files, noether_files
from typer.testing import CliRunner

from preheat.cli import app


def model(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(3, 2)


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(text, system):
        (tmp_path / "config.yaml").write_text(text)
        done = CliRunner().invoke(app, ["migrate", "config.yaml", "--from", system, "--check", "--json"])
        assert done.exit_code in (0, 3), done.output
        answer = json.loads(done.stdout)["check"]
        assert answer["same"] == (done.exit_code == 0)
        return answer

    return run


def linnaeus(folder, *epochs):
    folder.mkdir(parents=True, exist_ok=True)
    for epoch in epochs:
        layer = model(epoch)
        content = {"model": layer.state_dict(), "optimizer": noether_files.trained(layer).state_dict(), "epoch": epoch}
        torch.save(content, folder / f"ckpt_epoch_{epoch}.pth")
        os.utime(folder / f"ckpt_epoch_{epoch}.pth", (1000 + epoch, 1000 + epoch))
    return folder


AUTO = """
EXPERIMENT: {PROJECT: p, GROUP: g, NAME: n}
ENV: {OUTPUT: {BASE_DIR: out}, INPUT: {CACHE_DIR: cache}}
TRAIN: {AUTO_RESUME: true}
MODEL: {PRETRAINED: zoo.pth}
"""


def test_linnaeus_newest_is_ours_where_it_is_whole(check, tmp_path):
    linnaeus(tmp_path / "out/p/g/n/checkpoints", 9, 10)
    answer = check(AUTO, "linnaeus")
    assert answer["same"]
    assert answer["preheat"]["path"].endswith("/ckpt_epoch_10.pth")


def test_linnaeus_takes_one_that_was_cut_and_we_do_not(check, tmp_path):
    folder = linnaeus(tmp_path / "out/p/g/n/checkpoints", 9, 10)
    whole = (folder / "ckpt_epoch_10.pth").read_bytes()
    (folder / "ckpt_epoch_10.pth").write_bytes(whole[: len(whole) // 2])
    answer = check(AUTO, "linnaeus")
    assert not answer["same"]
    assert answer["legacy"]["path"].endswith("ckpt_epoch_10.pth")
    assert answer["preheat"]["path"].endswith("ckpt_epoch_9.pth")
    assert "is passed over: Truncated" in answer["because"]


def test_linnaeus_goes_by_time_and_we_by_epoch(check, tmp_path):
    folder = linnaeus(tmp_path / "out/p/g/n/checkpoints", 9, 10)
    os.utime(folder / "ckpt_epoch_9.pth", (5000, 5000))  # copied, restored from a backup
    answer = check(AUTO, "linnaeus")
    assert "modification time" in answer["because"]
    assert answer["preheat"]["path"].endswith("ckpt_epoch_10.pth")


def test_with_no_run_yet_both_take_pretrained_weights(check, tmp_path):
    linnaeus(tmp_path / "cache", 1)
    (tmp_path / "cache/ckpt_epoch_1.pth").rename(tmp_path / "cache/zoo.pth")
    answer = check(AUTO, "linnaeus")
    assert answer["same"]
    assert answer["preheat"]["path"].endswith("cache/zoo.pth")


def test_a_name_that_is_there_twice_is_an_error_of_ours_alone(check, tmp_path):
    for place in ("a", "b"):
        linnaeus(tmp_path / "cache" / place, 1)
        (tmp_path / "cache" / place / "ckpt_epoch_1.pth").rename(tmp_path / "cache" / place / "zoo.pth")
    answer = check(AUTO.replace("true", "false"), "linnaeus")
    assert (answer["same"], answer["preheat"]["path"]) == (False, None)
    assert "the first of 2 of that name" in answer["legacy"]["why"]
    assert "2 times" in answer["preheat"]["why"]


def test_a_name_that_is_nowhere_means_random_weights_there(check):
    answer = check(AUTO.replace("true", "false"), "linnaeus")
    assert answer["same"]
    assert "random weights" in answer["legacy"]["why"]
    assert "was not found" in answer["preheat"]["why"]


def test_anemois_last_is_ours(check, tmp_path):
    lightning_files.save_training(tmp_path / "checkpoint/r1/last.ckpt", model())
    lightning_files.save_inference(tmp_path / "checkpoint/r1/inference-last.ckpt", model())
    answer = check("training: {run_id: r1}\n", "anemoi")
    assert answer["same"]
    assert answer["preheat"]["path"].endswith("/checkpoint/r1/last.ckpt")


NOETHER = "resume_run_id: r1\noutput_path: out\nmodel: {name: m}\nresume_checkpoint: %s\n"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "out/r1/checkpoints"
    for epoch in (1, 2):
        noether_files.save_all(folder, "m", noether_files.position(epoch), model(epoch))
    noether_files.save_weights(folder, "m", "latest", model(3).state_dict())
    noether_files.save_trainer(folder, "m", "latest")
    return folder


@pytest.mark.parametrize(("tag", "file"), [("E2", "E2_U20_S80"), ("U10", "E1_U10_S40"), ("S80", "E2_U20_S80")])
def test_noethers_numbers_are_ours(check, run, tag, file):
    answer = check(NOETHER % tag, "noether")
    assert answer["same"]
    assert answer["preheat"]["path"].endswith(f"m_cp={file}_model.th")


def test_noethers_latest_without_an_optimizer_is_passed_over_for_one_that_can_go_on(check, run):
    answer = check(NOETHER % "latest", "noether")
    assert answer["legacy"]["path"].endswith("m_cp=latest_model.th")
    assert answer["preheat"]["path"].endswith("m_cp=E2_U20_S80_model.th")
    assert "no training can go on from it" in answer["because"]


def test_noethers_lookup_may_take_what_a_signal_wrote(check, run, monkeypatch):
    noether_files.save_all(run, "m", f"{noether_files.position(2)}.signal_interrupt", model(7))
    listed = sorted(os.listdir(run), key=lambda name: "signal" not in name)
    monkeypatch.setattr("preheat.migrate.choices.os.listdir", lambda folder: listed)
    answer = check(NOETHER % "E2", "noether")
    assert "signal_interrupt" in answer["legacy"]["path"]
    assert answer["preheat"]["path"].endswith("m_cp=E2_U20_S80_model.th")
    assert "the first of 2 that the folder lists" in answer["because"]


def test_stackwise_newest_is_told_by_what_files_say_of_themselves(check, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for index in (0, 1):
        stacks = [model(number).state_dict() for number in range(index + 1)]
        content = {
            "stack_idx": index,
            "timestamp": f"2026-01-0{index + 1}T00:00:00",
            "rack_builder": {"stacks": stacks},
        }
        path = tmp_path / f"checkpoints/progressive_stack_{index}.pt"
        torch.save(content, path)
        os.utime(path, (1000 + index, 1000 + index))
    answer = check("training: {checkpoint_dir: checkpoints}\n", "stackwise")
    assert answer["same"]
    assert answer["preheat"]["path"].endswith("progressive_stack_1.pt")


def test_where_there_is_no_one_checkpoint_nothing_is_compared(tmp_path):
    (tmp_path / "c.yaml").write_text("training: {run_id: null}\n")
    done = CliRunner().invoke(app, ["migrate", str(tmp_path / "c.yaml"), "--from", "anemoi", "--check"])
    assert (done.exit_code, "no one checkpoint to compare" in done.stderr) == (2, True)


def test_a_person_is_told_whole_paths(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(NOETHER % "latest")
    done = CliRunner().invoke(app, ["migrate", "c.yaml", "--check"])
    assert [line.split()[:4] for line in done.stdout.splitlines()][:2] == [
        ["noether", "takes", "out/r1/checkpoints/m_cp=latest_model.th", "(the"],
        ["Preheat", "takes", "out/r1/checkpoints/m_cp=E2_U20_S80_model.th", "(the"],
    ]
    assert done.stdout.splitlines()[-1] == "which is          not the same"
