"""The cluster's long-running programs: one process and mount namespace around all of them.

Ending the namespaces' first process ends every program, shim and container at once, and their mounts with them, so
nothing has to be found again after a crash. Programs are known by process id and start time, never by name.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.commands import wait_until

# Programs write to these whatever their options say.
SYSTEM_FOLDERS = ("/run/containerd", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods")
INIT = "init"
INIT_SCRIPT = Path(__file__).resolve().parent / "init.py"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


@dataclass(frozen=True)
class Process:
    """A process of this machine; the start time tells it from a later one with the same id."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """Describe a process that runs now."""
        state = _state(pid)
        if state is None:
            raise ProcessLookupError(f"process {pid} has ended")
        return cls(pid, state[1])

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        _reap(self.pid)
        state = _state(self.pid)
        return state is not None and state[0] not in "ZX" and state[1] == self.started

    def kill(self) -> None:
        """End it without asking."""
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)


class Processes:
    """The programs that run for one scratch folder, as its files remember them."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.records = scratch / "processes"
        self.logs = scratch / "logs"

    def open_namespaces(self) -> None:
        """Start the namespaces' first process and wait until its mounts are made."""
        self.records.mkdir(parents=True)
        self.logs.mkdir()
        made = [folder for folder in SYSTEM_FOLDERS if not Path(folder).exists()]
        (self.scratch / "made-folders").write_text("\n".join(made))
        for folder in made:
            Path(folder).mkdir(parents=True)
        ready = self.scratch / "namespaces-ready"
        self._spawn(
            INIT,
            "unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL", "--propagation", "slave",
            "/usr/bin/python3", "-I", str(INIT_SCRIPT), str(self.scratch), str(ready), *SYSTEM_FOLDERS,
        )  # fmt: skip
        wait_until("the cluster's namespaces are made", ready.exists, seconds=60, interval=0.02)

    def start(self, name: str, *command: str | Path) -> None:
        """Start a program inside the namespaces; its output goes to logs/<name>.log."""
        words = [str(word) for word in command]
        self._command_file(name).write_text(json.dumps(words))
        outer = f"/proc/{self._record(INIT).pid}/ns"
        self._spawn(name, "nsenter", f"--mount={outer}/mnt", f"--pid={outer}/pid_for_children", "--", *words)

    def restart_ended(self) -> list[str]:
        """Start the programs again that ended by themselves, and name them; the namespaces must be open."""
        ended = [name for name in self.names() if name != INIT and not self.running(name)]
        for name in ended:
            self.start(name, *json.loads(self._command_file(name).read_text()))
        return ended

    def running(self, name: str) -> bool:
        """Whether the program of this name runs."""
        return self._file(name).exists() and self._record(name).alive()

    def namespaces_open(self) -> bool:
        """Whether the first process lives, and with it the mounts and what else it holds."""
        return self.running(INIT)

    def names(self) -> list[str]:
        """The programs that were started, whether they still run or not."""
        return sorted(file.stem for file in self.records.glob("*.json"))

    def all_running(self) -> bool:
        """Whether programs were started and every one still runs."""
        return bool(self.names()) and all(map(self.running, self.names()))

    def pids(self, program: str) -> list[int]:
        """The ids, as this machine sees them, of the processes inside that run the program."""
        return [pid for pid in self._inside() if _command(pid)[:1] == [program]]

    def close_namespaces(self) -> None:
        """End every program and container, and remove the folders that were made for them."""
        if self._file(INIT).exists():
            inside = [Process.of(pid) for pid in self._inside()]
            self._record(INIT).kill()
            processes = [*inside, *map(self._record, self.names())]
            wait_until("every process of the cluster has ended", lambda: not any(p.alive() for p in processes), 30)
        made = self.scratch / "made-folders"
        for folder in made.read_text().split() if made.exists() else []:
            if Path(folder).exists():
                Path(folder).rmdir()

    def log_tail(self, name: str, lines: int) -> str:
        """The last lines that a program wrote, long ones cut."""
        written = (self.logs / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(line[:300] for line in written[-lines:])

    def _spawn(self, name: str, *command: str) -> None:
        log = os.open(self.logs / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        try:
            streams = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
            # Nothing else goes along: whoever runs us under flock(1) would hold his lock as long as the program runs.
            closed = [(os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable()]
            # A session of its own: the program outlives whoever starts it, and Ctrl-C does not reach it.
            pid = os.posix_spawnp(command[0], command, ENVIRONMENT, file_actions=[*streams, *closed], setsid=True)
        finally:
            os.close(log)
            os.close(null)
        self._file(name).write_text(json.dumps(asdict(Process.of(pid))))

    def _inside(self) -> list[int]:
        init = self._record(INIT)
        if not init.alive():
            return []
        namespace = os.readlink(f"/proc/{init.pid}/ns/pid_for_children")
        return [pid for pid in _all_pids() if _link(pid, "ns/pid") == namespace]

    def _record(self, name: str) -> Process:
        return Process(**json.loads(self._file(name).read_text()))

    def _command_file(self, name: str) -> Path:
        return self.records / f"{name}.command"

    def _file(self, name: str) -> Path:
        return self.records / f"{name}.json"


def _inheritable() -> list[int]:
    """Open files of this process that a new program would have too, besides the three standard ones."""
    found = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the listing's own, closed by now
            if fd > 2 and os.get_inheritable(fd):
                found.append(fd)
    return found


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _state(pid: int) -> tuple[str, int] | None:
    """The state's letter and the start time in clock ticks; None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _command(pid: int) -> list[str]:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []
    return [Path(words[0]).name, *words[1:]]


def _link(pid: int, name: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/{name}")
    except OSError:
        return ""


def _reap(pid: int) -> None:
    # Started by this very interpreter, an ended process stays a zombie until it is asked for.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
