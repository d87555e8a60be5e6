"""A disk that fails to order, and the program on it.

`Disk` starts one process with `shim.c` preloaded and everything imported; each command line runs
in a fork of it, with its own faults, so that a hundred of them take seconds and not minutes.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from program import Answer, environment

from audio_batch.errors import SetupError
from audio_batch.journal import Journal, JournalEntry
from audio_batch.outcome import State

SOURCE = Path(__file__).with_suffix(".c")


def build(folder: Path) -> Path:
    """Compile the shim; skips where that cannot be done."""
    compiler = shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the shim needs gcc and Linux")
    library = folder / "shim.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", library, SOURCE, "-ldl"], check=True
    )
    return library


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A folder whose fsync costs nothing: what a power failure would take is not tried here."""
    memory = Path("/dev/shm")
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 << 30
    with tempfile.TemporaryDirectory(dir=memory if roomy else None) as name:
        yield Path(name)


def entries(out: Path) -> dict[str, JournalEntry]:
    """The journal's rows; none where a run was cut off before it had made its tables."""
    path = out / ".audio-batch/journal.sqlite3"
    if not path.is_file():
        return {}
    try:
        journal = Journal(path, read_only=True)
    except SetupError as error:
        assert "is empty" in str(error)
        return {}
    try:
        return {entry.asset_id: entry for entry in journal.entries()}
    finally:
        journal.close()


def torn(out: Path) -> list[str]:
    """Outputs of assets that are done which are not what the journal says."""
    return [
        f"{entry.asset_id}: {output.path}"
        for entry in entries(out).values()
        if entry.state is State.DONE
        for output in entry.outputs
        if not (out / output.path).is_file()
        or hashlib.sha256((out / output.path).read_bytes()).hexdigest() != output.sha256
    ]


@dataclass(frozen=True)
class Call:
    """A line of the shim's log."""

    op: str
    path: str
    to: str

    @property
    def is_journal(self) -> bool:
        """Whether it is of the SQLite file or its rollback journal."""
        return "journal.sqlite3" in self.path


def calls(log: Path) -> list[Call]:
    """What was done below the folder, in order."""
    return [Call(*line.split("\t")) for line in log.read_text().splitlines()]


class Disk:
    """Runs command lines on the shim, or without one. A context manager: it ends its process."""

    def __init__(self, library: Path | None) -> None:
        preload = {"LD_PRELOAD": str(library)} if library else {}
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            env=environment(PYTHONPATH=os.pathsep.join(sys.path), **preload),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._library = library

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()

    def run(self, folder: Path, *arguments: object, **shim: object) -> Answer:
        """One command line in `folder`; `nth=3` and so on become SHIM_NTH=3."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        request = {
            "library": self._library and str(self._library),
            "folder": str(folder),
            "arguments": [str(argument) for argument in arguments],
            "environment": {f"SHIM_{key.upper()}": str(value) for key, value in shim.items()},
        }
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        out, err = (folder / f"{name}.captured" for name in ("out", "err"))
        return Answer(code, out.read_text("utf-8"), err.read_text("utf-8"))


_USED_BY_A_RUN = (
    "asyncio",
    "audio_batch.cli.console",
    "audio_batch.diarization_models",
    "audio_batch.engines.null",
    "audio_batch.media.decode",
    "audio_batch.session",
    "audio_batch.verify",
    "pynvml",
    "requests",
    "yaml",
)


def _serve() -> None:
    from audio_batch.cli import run_app

    for module in _USED_BY_A_RUN:
        __import__(module)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _become(request)
                code = run_app(request["arguments"])
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(request: dict[str, object]) -> None:
    os.chdir(str(request["folder"]))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{name}.captured", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    if request["library"]:
        ctypes.CDLL(str(request["library"])).shim_arm()


if __name__ == "__main__":
    _serve()
