"""Many starts on one folder, at one moment: one works, the others say so at once."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from program import command, environment, write_manifest

from audio_batch.journal import Journal

Children = list[subprocess.Popen[str]]
NIGHT = ("run", "manifest.json", "--engine", "null", "-o", "out", "--model")


def start(children: Children, folder: Path, *arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    children.append(process)
    return process


def one_of(count: int, tmp_path: Path, children: Children) -> None:
    write_manifest(tmp_path, 2)
    begun = time.monotonic()
    started = [start(children, tmp_path, *NIGHT, "null:600000") for _ in range(count)]
    answered_s = []
    deadline = begun + 300
    while len(answered_s) < count - 1 and time.monotonic() < deadline:
        answered = sum(process.poll() is not None for process in started)
        answered_s += [time.monotonic() - begun] * (answered - len(answered_s))
        time.sleep(0.01)
    at_work = [process for process in started if process.poll() is None]
    assert len(at_work) == 1
    for process in started:
        if process not in at_work:
            said = process.communicate()[0]
            assert process.returncode == 11, said
            assert "Another run is at work" in said
            assert len(said.strip().splitlines()) == 1
    each_s = (answered_s[-1] - answered_s[0]) / max(1, count - 2)
    print(f"{count - 1} of {count} answered within {answered_s[-1]:.1f} s; {each_s:.2f} s each")
    # It dies, and what it leaves behind is no obstacle to anybody.
    while not running(tmp_path / "out"):
        assert at_work[0].poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    at_work[0].kill()
    at_work[0].communicate()
    assert (tmp_path / "out/.audio-batch/run.lock").exists()
    after = start(children, tmp_path, *NIGHT, "null")
    said = after.communicate(timeout=120)[0]
    assert after.returncode == 0, said
    assert json.loads((tmp_path / "out/summary.json").read_text())["done"] == 2


def running(out: Path) -> bool:
    path = out / ".audio-batch/journal.sqlite3"
    if not path.is_file():
        return False
    try:
        journal = Journal(path, read_only=True)
    except Exception:  # the schema is being made at this moment
        return False
    try:
        return any(entry.state == "running" for entry in journal.entries())
    finally:
        journal.close()


def test_of_a_dozen_simultaneous_starts_one_runs(tmp_path: Path, children: Children) -> None:
    one_of(12, tmp_path, children)


@pytest.mark.slow
def test_of_fifty_simultaneous_starts_one_runs(tmp_path: Path, children: Children) -> None:
    one_of(50, tmp_path, children)


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_a_foreign_lock_file_is_no_lock(tmp_path: Path, children: Children) -> None:
    """Whatever a crash, a copy or another program has left under the name."""
    write_manifest(tmp_path, 1)
    (tmp_path / "out/.audio-batch").mkdir(parents=True)
    (tmp_path / "out/.audio-batch/run.lock").write_text("4711\n")
    run = start(children, tmp_path, *NIGHT, "null")
    said = run.communicate(timeout=120)[0]
    assert run.returncode == 0, said
