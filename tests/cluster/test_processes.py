"""The namespaces around the cluster's programs: what is inside ends with them, and nothing of it is seen outside."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.commands import wait_until
from cluster.processes import SYSTEM_FOLDERS, Processes

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="namespaces need Linux and root"),
]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    found = Processes(tmp_path)
    found.open_namespaces()
    yield found
    found.close_namespaces()


def test_a_program_runs_until_the_namespaces_close(processes: Processes) -> None:
    processes.start("sleeper", "sleep", "1000")
    wait_until("it runs", lambda: len(processes.pids("sleep")) == 2, seconds=30)  # one is the first process's own
    pids = processes.pids("sleep")
    assert processes.all_running()
    processes.close_namespaces()
    assert not processes.all_running()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_daemon_that_left_its_parent_ends_with_the_namespaces(processes: Processes) -> None:
    processes.start("parent", "sh", "-c", "setsid sleep 2000 & exit 0")
    wait_until("the parent has ended", lambda: not processes.running("parent"), seconds=30)

    def daemons() -> list[int]:
        return [pid for pid in processes.pids("sleep") if b"2000" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    wait_until("the daemon runs", lambda: bool(daemons()), seconds=30)
    [daemon] = daemons()
    processes.close_namespaces()
    assert not Path(f"/proc/{daemon}").exists()


def test_a_program_inherits_no_open_file_of_its_starter(processes: Processes, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        processes.start("sleeper", "sleep", "1000")
    wait_until("it runs", lambda: len(processes.pids("sleep")) == 2, seconds=30)
    held = [os.readlink(each) for pid in processes.pids("sleep") for each in Path(f"/proc/{pid}/fd").iterdir()]
    assert held
    assert str(tmp_path / "lock") not in held


def test_mounts_stay_inside_and_output_goes_to_a_log(processes: Processes, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    processes.start("mounter", "sh", "-c", f"mount -t tmpfs none {folder} && echo mounted && sleep 1000")
    wait_until("it is mounted", lambda: "mounted" in processes.log_tail("mounter", 1), seconds=30)
    assert str(folder) not in Path("/proc/mounts").read_text()


def test_writes_to_system_folders_stay_in_the_scratch_folder(processes: Processes, tmp_path: Path) -> None:
    processes.start("writer", "touch", "/var/lib/cni/trace")
    wait_until("it is written", (tmp_path / "system/var/lib/cni/trace").exists, seconds=30)
    assert not Path("/var/lib/cni/trace").exists()


def test_killing_the_first_process_ends_all_and_a_second_close_is_no_error(processes: Processes) -> None:
    missing = [folder for folder in SYSTEM_FOLDERS if folder in (processes.scratch / "made-folders").read_text()]
    processes.start("sleeper", "sleep", "1000")
    os.kill(processes.pids("python3")[0], signal.SIGKILL)
    wait_until("all have ended", lambda: not any(map(processes.running, processes.names())), seconds=30)
    processes.close_namespaces()
    processes.close_namespaces()
    assert not any(Path(folder).exists() for folder in missing)


def test_a_program_that_ended_is_started_again_by_name(processes: Processes) -> None:
    processes.start("sleeper", "tail", "-f", "/dev/null")
    wait_until("it runs", lambda: bool(processes.pids("tail")), seconds=30)
    os.kill(processes.pids("tail")[0], signal.SIGKILL)
    wait_until("it has ended", lambda: not processes.running("sleeper"), seconds=30)
    assert processes.restart_ended() == ["sleeper"]
    assert processes.all_running()
    assert processes.restart_ended() == []
