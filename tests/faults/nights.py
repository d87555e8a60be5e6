"""Runs that are killed while they work, and what must hold afterwards whatever was killed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from attempt_rows import count_attempts
from program import command
from shim import entries

from audio_batch.journal import Journal
from audio_batch.outcome import State
from audio_batch.output_folder import OutputFolder
from audio_batch.verify import check_journal, verify

_POLL_S = 0.03
_PATIENCE_S = 240.0


@contextmanager
def started(
    folder: Path, *arguments: object, env: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The program at work in `folder`, its words appended to `log`; killed in the end."""
    with log.open("ab") as said:
        process = subprocess.Popen(
            command(*arguments),
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def done_stamps(out: Path) -> dict[str, float | None]:
    """When each asset that is done was done; empty where no run has begun yet."""
    with suppress(Exception):  # the schema is being made at this moment
        return {
            entry.asset_id: entry.finished_at
            for entry in entries(out).values()
            if entry.state is State.DONE
        }
    return {}


def is_running(out: Path) -> bool:
    """Whether the journal has an attempt at work, or the debris of one."""
    with suppress(Exception):  # the schema is being made at this moment
        return any(entry.state is State.RUNNING for entry in entries(out).values())
    return False


def wait_until(holds: Callable[[], object], process: subprocess.Popen[bytes], *, log: Path) -> bool:
    """Wait for a condition; whether it holds, False when the process has ended before."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while not holds():
        if process.poll() is not None:
            return bool(holds())
        if time.monotonic() > deadline_s:
            pytest.fail(f"nothing happened for {_PATIENCE_S} s: {log.read_text()[-3000:]}")
        time.sleep(_POLL_S)
    return True


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """All that a process has begun, itself not among them."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The living device processes of a run (`multiprocessing` has one more, for its own ends)."""
    found = []
    for child in family(process):
        with suppress(psutil.Error):
            if lives(child) and any("spawn_main" in word for word in child.cmdline()):
                found.append(child)
    return found


def lives(process: psutil.Process) -> bool:
    """Whether it still runs. A container may have nobody who buries the dead: a zombie is one."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_gone(processes: list[psutil.Process]) -> None:
    """Nothing that a killed run began outlives it."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while alive := [process for process in processes if lives(process)]:
        assert time.monotonic() < deadline_s, alive
        time.sleep(0.05)


def assert_sound(out: Path) -> None:
    """Every file is what the journal says, nothing is left over, and all of it is done."""
    folder = OutputFolder(out)
    with folder.locked():
        check_journal(folder.journal_path)
        with closing(Journal(folder.journal_path)) as journal:
            found = verify(folder, journal)
    assert not found.damages
    assert not found.leftovers
    assert found.unfinished == 0
    assert not [path for path in out.rglob("*") if "tmp" in path.name]


def attempt_count(out: Path) -> int:
    """How many attempts the journal has ever seen."""
    return count_attempts(out / ".audio-batch/journal.sqlite3")
