"""The program begun by a fork of a process that has imported it, which takes most of a start.

What is forked runs `main` as `python -m audio_batch` does: a process of its own, with its own
arguments, folder, environment, streams and end. Where it takes a start from nothing (another
PYTHONPATH, a system without `fork`), `Forks.run` answers None: begin a process then.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from fork_server import exactly
from program import Answer

_READ_LATE = ("AUDIO_BATCH_", "AWS_", "HF_", "PYTEST_CURRENT_TEST")
"""Variables that nothing reads while it is imported: each process may have its own."""


class Forks:
    """A process that forks the program, one at a time.

    Args:
        environment: what it is begun with; a run that needs another one is not forked.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def run(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], timeout_s: float
    ) -> Answer | None:
        """Run the program to its end; None where it takes a process that begins from nothing.

        Raises:
            subprocess.TimeoutExpired: it was still at work, and was killed.
        """
        if not hasattr(os, "fork") or _of_imports(env) != _of_imports(self._environment):
            return None
        if not self._lock.acquire(blocking=False):
            return None
        try:
            with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
                files = (out.fileno(), err.fileno())
                wish = json.dumps([list(arguments), str(cwd), dict(env)]).encode()
                code = _ended(self._begun(), wish, files, timeout_s)
                return Answer(code, *map(_text, files))
        finally:
            self._lock.release()

    def _begun(self) -> socket.socket:
        if self._socket is None:
            self._socket, theirs = socket.socketpair()
            with theirs:
                server = Path(__file__).with_name("fork_server.py")
                self._process = subprocess.Popen(
                    [sys.executable, str(server), str(theirs.fileno())],
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
        return self._socket

    def close(self) -> None:
        """End it."""
        if self._socket is not None:
            self._socket.close()
            self._process.wait()


def _of_imports(environment: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if not key.startswith(_READ_LATE)}


def _ended(stream: socket.socket, wish: bytes, files: Sequence[int], timeout_s: float) -> int:
    """The exit code, once it has ended."""
    socket.send_fds(stream, [len(wish).to_bytes(4, "big")], list(files))
    stream.sendall(wish)
    stream.settimeout(timeout_s)
    pid = _number(stream)
    try:
        return _number(stream)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        _number(stream)
        raise subprocess.TimeoutExpired([str(pid)], timeout_s) from None
    finally:
        stream.settimeout(None)


def _number(stream: socket.socket) -> int:
    return int.from_bytes(exactly(stream, 4), "big", signed=True)


def _text(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    with open(file, encoding="utf-8", closefd=False) as stream:
        return stream.read()
