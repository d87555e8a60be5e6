"""A process that has imported the program and forks it, one at a time; see `forked`.

    python fork_server.py FD

Each wish comes over the socket FD: four bytes that say how long it is, with the files for stdout
and stderr; then JSON of the arguments, the folder and the environment. The answers are the
process's id and, when it has ended, its exit code. It ends when the other side is gone.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import socket
import sys
import types

_MODULES = ("audio_batch.__main__", "audio_batch.cli.console", "audio_batch.engines", "av", "yaml")
"""And those of every command; no speech library, which only some runs need."""


def _serve(stream: socket.socket) -> None:
    """Fork for each wish; returns in the forked process, which is then as `-m` would begin it."""
    for name in _MODULES:
        importlib.import_module(name)
    importlib.import_module("audio_batch.cli.tree").command_line()
    gc.freeze()  # what is forked shares this memory as long as it writes none of it
    while True:
        size, files, _, _ = socket.recv_fds(stream, 4, 2)
        if not size:
            os._exit(0)
        wish = json.loads(exactly(stream, int.from_bytes(size, "big")))
        pid = os.fork()
        if pid == 0:
            stream.close()
            return _become(files, *wish)
        for file in files:
            os.close(file)
        with contextlib.suppress(OSError):
            _send(stream, pid)
            _, status = os.waitpid(pid, 0)
            _send(stream, os.waitstatus_to_exitcode(status))


def _become(files: list[int], arguments: list[str], cwd: str, variables: dict[str, str]) -> None:
    for target, file in enumerate(files, start=1):
        os.dup2(file, target)
        os.close(file)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    spec = importlib.util.find_spec("audio_batch.__main__")
    assert spec is not None
    sys.path[0] = cwd
    more = variables.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [path for path in more if path and path not in sys.path]
    sys.argv[:] = [str(spec.origin), *arguments]
    # Processes that are spawned look for the main module here.
    module = types.ModuleType("__main__")
    module.__spec__, module.__file__ = spec, spec.origin
    module.__package__ = spec.parent
    sys.modules["__main__"] = module


def _send(stream: socket.socket, number: int) -> None:
    stream.sendall(number.to_bytes(4, "big", signed=True))


def exactly(stream: socket.socket, count: int) -> bytes:
    """The next `count` bytes. Raises EOFError when the other side is gone."""
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


if __name__ == "__main__":
    this = sys.modules["__main__"]  # its names are needed as long as it runs
    _serve(socket.socket(fileno=int(sys.argv[1])))
    from audio_batch.__main__ import main

    sys.exit(main())
