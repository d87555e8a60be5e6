"""Signals to real runs, and children that obey their parent alone and end with it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faulty_engine
import psutil
import pytest
from program import Answer, command, environment, write_manifest

from audio_batch.control import StopControl
from audio_batch.journal import Journal
from audio_batch.lifetime import WARNING_GRACE_S, interruptible, signals_to
from audio_batch.outcome import State

Cli = Callable[..., Answer]
Children = list[subprocess.Popen[str]]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

ISOLATIONS = ("thread", "process")
MANY = 100
"""So many that a run is at work on them for as long as anybody may need to stop it."""


def night(folder: Path, *more: object, model: str = "null:300", count: int = MANY) -> list[str]:
    manifest = write_manifest(folder, count)
    return command("run", manifest, "--engine", "null", "--model", model, "-o", "out", *more)


def held_night(folder: Path, count: int) -> tuple[list[str], dict[str, str], Path]:
    """A run, its environment, and the file without which it does no more than its first asset."""
    manifest, until = write_manifest(folder, count), folder / "until"
    faults = {"follow": list(range(count)), "gate": str(until)}
    env = environment(**faulty_engine.install(folder / "plugin"), FAULTY_ENGINE=json.dumps(faults))
    return command("run", manifest, "--engine", "faulty", "-o", "out"), env, until


def start(
    children: Children, folder: Path, line: list[str], env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """A session of its own, so that its group can be signalled as a terminal or Slurm does."""
    process = subprocess.Popen(
        line,
        cwd=folder,
        env=env or environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    children.append(process)
    return process


def states(folder: Path) -> list[State]:
    path = folder / "out/.audio-batch/journal.sqlite3"
    if not path.is_file():
        return []
    with contextlib.suppress(Exception):  # the schema is being made at this moment
        return [entry.state for entry in Journal(path, read_only=True).entries()]
    return []


def wait_until_running(folder: Path, process: subprocess.Popen[str], done: int = 0) -> None:
    while process.poll() is None:
        found = states(folder)
        if State.RUNNING in found and found.count(State.DONE) >= done:
            return
        time.sleep(0.02)
    pytest.fail(f"it ended before it began: {process.communicate()[0]}")


def group_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The process and all that it began."""
    me = psutil.Process(process.pid)
    return [me, *me.children(recursive=True)]


def assert_no_orphans(family: list[psutil.Process]) -> None:
    """A container may have nobody who buries the dead: a zombie is one."""
    deadline_s = time.monotonic() + 60
    while alive := [process for process in family if lives(process)]:
        assert time.monotonic() < deadline_s, alive
        time.sleep(0.05)


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("name", "isolation"),
    [
        ("SIGTERM", "process"),
        ("SIGUSR1", "thread"),
        # The others go the same way; below they are raised in this process.
        *(
            pytest.param(name, isolation, marks=pytest.mark.slow)
            for name in ("SIGINT", "SIGHUP", "SIGUSR2", "SIGXCPU")
            for isolation in ISOLATIONS
        ),
    ],
)
def test_a_signal_to_the_whole_group_begins_nothing_new_and_finishes_what_runs(
    tmp_path: Path, children: Children, name: str, isolation: str
) -> None:
    line = night(tmp_path, "--isolation", isolation)
    process = start(children, tmp_path, line)
    wait_until_running(tmp_path, process, done=1)
    family = group_of(process)
    assert (len(family) > 1) == (isolation == "process")
    os.killpg(process.pid, getattr(signal, name))
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 130, text
    before, told, after = text.partition(f"Stopping after {name}")
    assert told, text
    assert_no_orphans(family)
    entries = list(Journal(tmp_path / "out/.audio-batch/journal.sqlite3", read_only=True).entries())
    ended = [(entry.state, entry.attempts) for entry in entries]
    # What ran was finished; what was only read ahead is put back, and counts as no attempt.
    assert set(ended) <= {(State.DONE, 1), (State.INTERRUPTED, 0)}
    assert 1 <= ended.count((State.DONE, 1)) < MANY
    at_work = re.match(r": (\d+) running", after)
    assert ended.count((State.DONE, 1)) <= before.count("] Done: ") + int(
        at_work[1] if at_work else 0
    )
    assert json.loads((tmp_path / "out/summary.json").read_text())["exit_code"] == 130


def test_ctrl_c_reaches_the_whole_group_and_twice_drops_what_runs(
    tmp_path: Path, children: Children
) -> None:
    line = night(tmp_path, "--isolation", "process", model="null:600000", count=2)
    process = start(children, tmp_path, line)
    wait_until_running(tmp_path, process)
    family = group_of(process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout is not None
    assert any("Stopping after SIGINT" in line for line in process.stdout)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert_no_orphans(family)
    left = list(Journal(tmp_path / "out/.audio-batch/journal.sqlite3", read_only=True).entries())
    assert {(entry.state, entry.attempts) for entry in left} == {(State.INTERRUPTED, 0)}


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_sigterm_waits_no_longer_than_its_grace(
    tmp_path: Path, children: Children, isolation: str
) -> None:
    line = night(tmp_path, "--isolation", isolation, model="null:600000", count=2)
    process = start(children, tmp_path, line)
    wait_until_running(tmp_path, process)
    family = group_of(process)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert_no_orphans(family)
    # What was only read ahead has a row as well, or none.
    left = list(Journal(tmp_path / "out/.audio-batch/journal.sqlite3", read_only=True).entries())
    assert {(entry.state, entry.attempts) for entry in left} == {(State.INTERRUPTED, 0)}


@pytest.mark.skipif(shutil.which("nohup") is None, reason="needs nohup")
def test_a_run_under_nohup_outlives_its_terminal(tmp_path: Path, children: Children) -> None:
    line, env, until = held_night(tmp_path, 4)
    process = start(children, tmp_path, ["nohup", *line], env)
    wait_until_running(tmp_path, process, done=1)
    os.killpg(process.pid, signal.SIGHUP)
    until.touch()
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert states(tmp_path) == [State.DONE] * 4


@pytest.mark.skipif(sys.platform != "linux", reason="pseudo terminals as Linux has them")
def test_a_closed_terminal_saves_the_state(tmp_path: Path) -> None:
    """SIGHUP, and nowhere to write to any more."""
    line = night(tmp_path)
    pid, terminal = os.forkpty()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(line[0], line, environment())
    try:
        deadline_s = time.monotonic() + 60
        while State.DONE not in states(tmp_path):
            assert time.monotonic() < deadline_s
            with contextlib.suppress(OSError):
                os.read(terminal, 65536)
        os.close(terminal)
        code = os.waitstatus_to_exitcode(wait_for(pid, 120))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert code == 130
    ended = states(tmp_path)
    assert set(ended) <= {State.DONE, State.INTERRUPTED}
    assert 1 <= ended.count(State.DONE) < MANY


def wait_for(pid: int, within_s: float) -> int:
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail(f"it did not end within {within_s:g} s")


def test_a_stopped_run_goes_on(tmp_path: Path, children: Children) -> None:
    """As by Ctrl-Z and `fg`, or by a scheduler that suspends the job for another."""
    line, env, until = held_night(tmp_path, 4)
    process = start(children, tmp_path, line, env)
    wait_until_running(tmp_path, process)
    os.killpg(process.pid, signal.SIGSTOP)
    deadline_s = time.monotonic() + 60
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    until.touch()
    os.killpg(process.pid, signal.SIGCONT)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert states(tmp_path) == [State.DONE] * 4


# ---- requests to stop


@pytest.fixture
def stop() -> StopControl:
    return StopControl(queue.SimpleQueue(), grace_s=25.0)


@pytest.fixture
def all_signals_kept() -> Iterator[None]:
    """Whatever a test breaks, the next one begins with the handlers of before."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    before = {number: signal.getsignal(number) for number in map(signal.Signals.__getitem__, names)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.usefixtures("all_signals_kept")
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_warnings_come_again_and_again_and_drop_nothing(stop: StopControl, name: str) -> None:
    """SIGXCPU comes every second until the hard limit."""
    with signals_to(stop):
        for _ in range(3):
            signal.raise_signal(getattr(signal, name))
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested.is_set()
        assert stop.reason == name
        assert not stop.drop
        signal.raise_signal(signal.SIGINT)
        assert stop.drop, "a person says it a second time"


def test_the_earliest_end_counts() -> None:
    stop = StopControl(queue.SimpleQueue(), grace_s=0.05)
    stop.request("SIGUSR1", within_s=WARNING_GRACE_S)
    assert not stop.drop
    stop.request("SIGTERM", within_grace=True)
    stop.request("SIGUSR1", within_s=WARNING_GRACE_S)
    time.sleep(0.1)
    assert stop.drop


@pytest.mark.usefixtures("all_signals_kept")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_before_the_run_a_signal_is_as_good_as_ctrl_c(name: str) -> None:
    with pytest.raises(KeyboardInterrupt, match=name), interruptible():
        signal.raise_signal(getattr(signal, name))


def test_leaving_ends_the_process_though_nobody_takes_its_output() -> None:
    script = (
        "import os, sys, threading, time\n"
        "from audio_batch.lifetime import leave\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "sys.stdout.write('kept back')\n"
        "os.close(1)\n"
        "leave(7)\n"
    )
    env = environment(PYTHONUNBUFFERED="")
    done = subprocess.run([sys.executable, "-c", script], env=env, timeout=120, check=False)
    assert done.returncode == 7


# ---- children

FAMILY = """
import os, subprocess, sys, time
from audio_batch.lifetime import shielded

CHILD = '''
import os, signal, sys, time
from audio_batch.lifetime import die_with_parent, ignore_stop_signals
time.sleep(float(sys.argv[2]))
ignore_stop_signals()
die_with_parent(int(sys.argv[1]))
print(os.getpid(), *signal.pthread_sigmask(signal.SIG_BLOCK, ()), flush=True)
time.sleep(60)
'''
with shielded():
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(os.getpid()), sys.argv[1]])
try:
    print(child.pid, flush=True)
    child.wait()
except KeyboardInterrupt:
    print("parent interrupted", flush=True)
    time.sleep(60)
"""


def family(
    children: Children, folder: Path, slow_start_s: float
) -> tuple[subprocess.Popen[str], int]:
    process = start(children, folder, [sys.executable, "-c", FAMILY, str(slow_start_s)])
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_ctrl_c_reaches_the_parent_alone_even_while_the_child_starts(
    tmp_path: Path, children: Children
) -> None:
    parent, child = family(children, tmp_path, slow_start_s=0.7)
    assert parent.stdout is not None
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
        os.kill(child, number)
    os.killpg(parent.pid, signal.SIGINT)
    # The child speaks once it is ready: it lives, and holds no signal back any more.
    lines = {parent.stdout.readline().strip() for _ in range(2)}
    assert lines == {"parent interrupted", str(child)}
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
        os.kill(child, number)
    time.sleep(0.2)
    assert psutil.Process(child).status() != psutil.STATUS_ZOMBIE


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child for its parent")
@pytest.mark.parametrize("slow_start_s", [0.0, 0.7])
def test_a_child_dies_with_its_parent_however_that_dies(
    tmp_path: Path, children: Children, slow_start_s: float
) -> None:
    parent, child = family(children, tmp_path, slow_start_s)
    orphan = psutil.Process(child)
    if slow_start_s == 0.0:
        assert parent.stdout is not None
        parent.stdout.readline()  # it is ready
    parent.kill()  # the other time: before the child could ask the kernel for anything
    assert_no_orphans([orphan])
