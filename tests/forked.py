"""The program run to its end, begun by a fork of a process that has imported it.

That saves most of what a start takes. What is forked runs `main` as `python -m audio_batch` does:
a process of its own, with its own arguments, folder, environment, streams and end. Where an
environment is a rare one, or there is no `fork`, it is a start from nothing.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from fork_server import exactly
from program import Answer, command

_READ_LATE = ("AUDIO_BATCH_", "AWS_", "CUDA_", "FAULTY_", "HF_", "HOME", "PATH", "STUB_", "XDG_")
"""Variables that nothing reads while it is imported: each process may have its own."""

_OWN_PYTHONPATH = os.environ.get("PYTHONPATH", "")
_MOST_SERVERS = 3


def completed(
    arguments: Sequence[object], cwd: Path, env: Mapping[str, str], timeout_s: float = 600
) -> Answer:
    """What the program said, run to its end in the folder `cwd` with exactly this environment.

    Raises:
        subprocess.TimeoutExpired: it was still at work, and was killed.
    """
    given = [str(argument) for argument in arguments]
    server = _server(env)
    if server is None or not server.lock.acquire(blocking=False):
        done = subprocess.run(
            command(*given),
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout_s,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)
    try:
        return server.run(given, cwd, env, timeout_s)
    finally:
        server.lock.release()


class _Server:
    """A process that forks the program, one at a time; it ends with this process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("fork_server.py"), str(theirs.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self._close)

    def run(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], timeout_s: float
    ) -> Answer:
        """See `completed`."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            files = [out.fileno(), err.fileno()]
            wish = json.dumps([arguments, str(cwd), dict(env)]).encode()
            socket.send_fds(self._socket, [len(wish).to_bytes(4, "big")], files)
            self._socket.sendall(wish)
            pid = self._number()
            self._socket.settimeout(timeout_s)
            try:
                code = self._number()
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._socket.settimeout(None)
                self._number()
                raise subprocess.TimeoutExpired(list(arguments), timeout_s) from None
            self._socket.settimeout(None)
            return Answer(code, *map(_text, files))

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()

    def _number(self) -> int:
        return int.from_bytes(exactly(self._socket, 4), "big", signed=True)


_seen: Counter[frozenset[tuple[str, str]]] = Counter()
_servers: dict[frozenset[tuple[str, str]], _Server] = {}
_choosing = threading.Lock()


def _server(env: Mapping[str, str]) -> _Server | None:
    """That of this environment; None for one that was never seen before, or is one too many."""
    if not hasattr(os, "fork"):
        return None
    base = {key: value for key, value in env.items() if not key.startswith(_READ_LATE)}
    base.pop("PYTEST_CURRENT_TEST", None)
    base.pop("PYTHONPATH", None)  # what it names more than ours is added after the fork
    key = frozenset(base.items())
    with _choosing:
        _seen[key] += 1
        if key not in _servers and _seen[key] > 1 and len(_servers) < _MOST_SERVERS:
            own = {name: env[name] for name in ("HOME", "PATH") if name in env}
            _servers[key] = _Server(base | own | {"PYTHONPATH": _OWN_PYTHONPATH})
        return _servers.get(key)


def _text(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    with open(file, encoding="utf-8", closefd=False) as stream:
        return stream.read()
