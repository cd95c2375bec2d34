"""A Python of a pod that has imported what trainings import, and runs each script in a process forked from it.

Importing Lightning takes seconds of processor, running one of these trainings a tenth of one. What a script meets is
what it meets in an interpreter of its own, with the modules that it is about to import already there; whatever is about
the start of the interpreter or about those imports is not for here.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SECONDS = 300


class Warm:
    """The process to fork from: `environment` is what it starts with, `modules` what it imports."""

    def __init__(self, environment: Mapping[str, str], *modules: str) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno()), *modules]
            fds = [theirs.fileno()]
            self._process = subprocess.Popen(command, env=dict(environment), pass_fds=fds, start_new_session=True)

    def run(self, script: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run the script in its folder, in a process with this environment."""
        pipes = [os.pipe() for _ in range(2)]
        request = {"script": str(script), "environment": dict(environment)}
        socket.send_fds(self._socket, [json.dumps(request).encode()], [write for _, write in pipes])
        for _, write in pipes:
            os.close(write)
        said = ["", ""]

        def read(index: int) -> None:  # to the end: children of the script may write longer than it lives
            with open(pipes[index][0], errors="replace") as pipe:
                said[index] = pipe.read()

        readers = [threading.Thread(target=read, args=(index,)) for index in range(2)]
        for reader in readers:
            reader.start()
        self._socket.settimeout(SECONDS)
        try:
            code = int(self._socket.recv(64))
        except TimeoutError:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise
        for reader in readers:
            reader.join(SECONDS)
        return subprocess.CompletedProcess([str(script)], code, *said)

    def end(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait(SECONDS)


def serve(connection: socket.socket) -> dict[str, Any] | None:
    """Fork for each request; None in this process when nobody asks any more, in a child what it shall run."""
    while True:
        message, fds, _, _ = socket.recv_fds(connection, 1 << 20, 2)
        if not message:
            return None
        if not (pid := os.fork()):
            connection.close()
            for fd, standard in zip(fds, (1, 2), strict=True):
                os.dup2(fd, standard)
                os.close(fd)
            request: dict[str, Any] = json.loads(message)
            return request
        for fd in fds:
            os.close(fd)
        connection.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def become(script: str, environment: dict[str, str]) -> None:
    """Go on as a process that was started with the script."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(Path(script).parent)
    sys.argv[:] = [script]
    sys.path[0] = str(Path(script).parent)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = script
    exec(compile(Path(script).read_text(), script, "exec"), vars(main))


if __name__ == "__main__":
    for name in sys.argv[2:]:
        __import__(name)
    if asked := serve(socket.socket(fileno=int(sys.argv[1]))):
        become(asked["script"], asked["environment"])
