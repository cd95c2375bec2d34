"""Marks of those who began from a checkpoint: left beside the run, gone when their process ends in order."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from preheat.resume.starts import STARTS, Starts

SCRIPT = """
import os, signal, sys
from pathlib import Path
from preheat.resume.starts import Starts
from preheat.shim.endings import Ending
mark = Starts(Path(sys.argv[1])).begin("model_cp=E1_U2_S3", "abc", 0)
Ending(mark.remove).watch()
{end}
"""
IN_ORDER = {
    "the end": "pass",
    "sys.exit": "sys.exit()",
    "sys.exit(0)": "sys.exit(0)",
    "Ctrl-C": "raise KeyboardInterrupt",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "SIGTERM with a handler": """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
signal.raise_signal(signal.SIGTERM)""",
    "SIGTERM with one that calls the one before": """
before = signal.getsignal(signal.SIGTERM)
signal.signal(signal.SIGTERM, lambda *them: before(*them))
signal.raise_signal(signal.SIGTERM)
sys.exit(3)""",
    "a fork that dies": "pid = os.fork()\nif not pid: os.kill(os.getpid(), signal.SIGKILL)\nos.waitpid(pid, 0)",
}
DEATHS = {
    "an exception": "raise ValueError",
    "an exit code": "sys.exit(3)",
    "a message": "sys.exit('no data')",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "SIGSEGV": "os.kill(os.getpid(), signal.SIGSEGV)",
    "os._exit": "os._exit(0)",
    "a fork that ends in order": "pid = os.fork()\nif not pid: sys.exit(0)\nos.waitpid(pid, 0)\nos._exit(1)",
}


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Marks that are left by each end; all at once, each in a folder of its own."""
    folders = {name: tmp_path_factory.mktemp("run") for name in (*IN_ORDER, *DEATHS)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(end={**IN_ORDER, **DEATHS}[name]), folder], stderr=subprocess.DEVNULL
        )
        for name, folder in folders.items()
    ]
    for process in running:
        process.wait(timeout=60)
    return {name: [start.checkpoint for start in Starts(folder).read()] for name, folder in folders.items()}


@pytest.mark.parametrize("end", IN_ORDER)
def test_an_end_in_order_leaves_no_mark(left: dict[str, list[str]], end: str) -> None:
    assert left[end] == []


@pytest.mark.parametrize("end", DEATHS)
def test_a_death_leaves_one(left: dict[str, list[str]], end: str) -> None:
    assert left[end] == ["model_cp=E1_U2_S3"]


def test_sigterm_still_ends_the_process_as_it_did(tmp_path: Path) -> None:
    script = SCRIPT.format(end="os.kill(os.getpid(), signal.SIGTERM)")
    assert subprocess.run([sys.executable, "-c", script, tmp_path], check=False).returncode == -signal.SIGTERM


def test_what_is_no_mark_is_passed_over(tmp_path: Path) -> None:
    starts = Starts(tmp_path)
    assert list(starts.read()) == []
    starts.begin("c", "1", 0)
    for name, text in {"odd.json": "{", "list.json": "[]", "other.txt": "{}", "empty.json": ""}.items():
        (tmp_path / STARTS / name).write_text(text)
    (tmp_path / STARTS / "folder.json").mkdir()
    assert [(start.id, start.checkpoint) for start in starts.read()] == [("1", "c")]


def test_marks_that_say_nothing_any_more_are_forgotten(tmp_path: Path) -> None:
    starts = Starts(tmp_path)
    starts.begin("b", "1", 0)
    new = starts.begin("c", "2", 0)
    starts.forget(start for start in starts.read() if start.checkpoint == "b")
    assert [start.checkpoint for start in starts.read()] == ["c"]
    new.remove()
    new.remove()
    assert list(starts.read()) == []
