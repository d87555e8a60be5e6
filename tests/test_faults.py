"""Kills, signals, locks and a broken device, against real processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faulty_engine
import pytest
from attempt_rows import count_attempts
from program import Answer, command, environment, text_outputs, write_manifest

from audio_batch.journal import Journal
from audio_batch.outcome import State

Cli = Callable[..., Answer]
Children = list[subprocess.Popen[str]]
PATIENT_S = 240.0
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


def start(
    children: Children, folder: Path, *arguments: object, **env: str
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    children.append(process)
    return process


def journal_of(folder: Path) -> Path:
    return folder / ".audio-batch/journal.sqlite3"


def journal(folder: Path) -> Journal:
    return Journal(journal_of(folder), read_only=True)


def wait_until_running(folder: Path, process: subprocess.Popen[str], done: int = 0) -> None:
    """Until an attempt is at work and `done` assets are done."""
    while process.poll() is None:
        if (folder / ".audio-batch/journal.sqlite3").is_file():
            try:
                states = [entry.state for entry in journal(folder).entries()]
            except Exception:  # the schema is being made at this moment
                states = []
            if State.RUNNING in states and states.count(State.DONE) >= done:
                return
        time.sleep(0.02)
    pytest.fail(f"it ended before it began: {process.communicate()[0]}")


def said_until(process: subprocess.Popen[str], text: str) -> str:
    """What it has said so far, as soon as it has said this."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    pytest.fail(f"it ended without a word of {text!r}: {said}")


@pytest.mark.slow
def test_ten_kills_lose_nothing_double_nothing_and_tear_nothing(
    cli: Cli, tmp_path: Path, children: Children
) -> None:
    manifest = write_manifest(tmp_path, 30)
    night = ("run", manifest, "--engine", "null", "--model", "null:150", "-f", "all")
    assert cli(*night, "-o", "whole").code == 0
    chance = random.Random(20261112)
    out = tmp_path / "out"
    redone_after_done = 0
    for _ in range(10):
        done_before = done_stamps(out)
        process = start(children, tmp_path, *night, "-o", "out", "-t", "2", "--max-per-gpu", "2")
        if chance.random() < 0.8:
            wait_until_running(out, process)
        time.sleep(chance.uniform(0.0, 0.8))
        process.kill()
        process.communicate()
        after = done_stamps(out)
        redone_after_done += sum(after.get(name) != stamp for name, stamp in done_before.items())
    assert redone_after_done == 0
    final = cli(*night, "-o", "out")
    assert final.code == 0, final.err
    suffixes = (".txt", ".srt", ".vtt", ".tsv", ".csv", ".lrc", ".aud", ".uem", ".rttm")
    whole = text_outputs(tmp_path / "whole", suffixes)
    assert len(whole) == 30 * len(suffixes)
    assert text_outputs(out, suffixes) == whole
    assert not [path for path in out.rglob("*") if "tmp" in path.name]
    entries = list(journal(out).entries())
    assert {entry.state for entry in entries} == {State.DONE}
    # Of each kill at most the two that ran are done again.
    assert count_attempts(journal_of(out)) <= 30 + 10 * 2


def done_stamps(folder: Path) -> dict[str, float | None]:
    if not (folder / ".audio-batch/journal.sqlite3").is_file():
        return {}
    try:
        rows = list(journal(folder).entries())
    except Exception:  # killed while the schema was made: SQLite rolls it back at the next start
        return {}
    return {row.asset_id: row.finished_at for row in rows if row.state is State.DONE}


@posix
@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_a_signal_finishes_what_runs_and_a_rerun_goes_on(
    cli: Cli, tmp_path: Path, children: Children, name: str
) -> None:
    manifest = write_manifest(tmp_path, 12)
    gate = tmp_path / "gate"
    faults = {"follow": list(range(12)), "gate": str(gate)}
    plugin = faulty_engine.install(tmp_path / "plugin")
    env = {**plugin, "FAULTY_ENGINE": json.dumps(faults)}
    night = ("run", manifest, "--engine", "faulty", "-o", "out", "--max-per-gpu", "1")
    process = start(children, tmp_path, *night, **env)
    wait_until_running(tmp_path / "out", process, done=1)
    process.send_signal(getattr(signal, name))
    text = said_until(process, f"Stopping after {name}")
    gate.touch()
    text += process.communicate(timeout=PATIENT_S)[0]
    assert process.returncode == 130, text
    assert f"Stopping after {name}" in text
    ended = [(entry.state, entry.attempts) for entry in journal(tmp_path / "out").entries()]
    # What was only read ahead is put back, and counts as no attempt.
    assert set(ended) <= {(State.DONE, 1), (State.INTERRUPTED, 0)}
    assert 1 <= ended.count((State.DONE, 1)) < 12
    assert json.loads((tmp_path / "out/summary.json").read_text())["exit_code"] == 130
    assert cli(*night, env=env).code == 0
    assert [entry.attempts for entry in journal(tmp_path / "out").entries()] == [1] * 12


@posix
def test_a_second_ctrl_c_drops_what_runs_without_counting_it(
    tmp_path: Path, children: Children
) -> None:
    manifest = write_manifest(tmp_path, 2)
    process = start(
        children,
        tmp_path,
        "run",
        manifest,
        "--engine",
        "null",
        "--model",
        "null:600000",
        "-o",
        "out",
    )
    wait_until_running(tmp_path / "out", process)
    process.send_signal(signal.SIGINT)
    said_until(process, "Stopping after SIGINT")  # two at once would be one
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENT_S)
    assert process.returncode == 130
    left = list(journal(tmp_path / "out").entries())
    assert {(entry.state, entry.attempts) for entry in left} == {(State.INTERRUPTED, 0)}


def test_a_second_run_on_the_same_folder_is_exit_11(
    cli: Cli, tmp_path: Path, children: Children
) -> None:
    manifest = write_manifest(tmp_path, 3)
    night = ("run", manifest, "--engine", "null", "--model", "null:600000", "-o", "out")
    process = start(children, tmp_path, *night)
    wait_until_running(tmp_path / "out", process)
    second = cli(*night)
    assert second.code == 11
    assert "Another run is at work" in second.err
    assert cli("status", "out").code == 0
    process.kill()
    process.communicate()
    third = start(children, tmp_path, *night)
    wait_until_running(tmp_path / "out", third)


CRASH = """
import ctypes, sys, threading
import audio_batch.engines.null as null
transcribe = null.NullRecognizer.transcribe
def abort(self, samples, options, progress):
    if len(samples) == {samples}:
        ctypes.string_at(0)
    return transcribe(self, samples, options, progress)
null.NullRecognizer.transcribe = abort
from audio_batch.cli import run_app
sys.exit(run_app(sys.argv[1:]))
"""


@posix
def test_an_asset_that_crashes_the_program_is_set_aside_after_three_nights(
    tmp_path: Path,
) -> None:
    """A faulty engine, as a plugin would be: it segfaults on one recording's length."""
    manifest = write_manifest(tmp_path, 4)
    script = CRASH.replace("{samples}", str(int(0.502 * 16000)))

    def night() -> Answer:
        done = subprocess.run(
            [sys.executable, "-c", script, "run", str(manifest), "--engine", "null", "-o", "out"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    codes = [night().code for _ in range(3)]
    assert codes == [-signal.SIGSEGV] * 3
    last = night()
    assert last.code == 3, last.err
    states = {entry.asset_id: entry.state for entry in journal(tmp_path / "out").entries()}
    assert states.pop("tone-002") is State.QUARANTINED
    assert set(states.values()) == {State.DONE}
    assert "set aside" in last.err
    report = tmp_path / "out/.audio-batch/crash.previous.log"
    assert "Segmentation fault" in report.read_text()


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs a small file system")
def test_a_full_disk_is_named_and_a_rerun_goes_on(cli: Cli, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        manifest = write_manifest(tmp_path, 40)
        night = ("run", manifest, "--engine", "null", "-f", "all", "--retry-delay", "0.01")
        answer = cli(*night, "-o", small / "out")
        assert answer.code == 5, answer.err
        assert "disk is full" in answer.err
        assert "Traceback" not in answer.err
        subprocess.run(["mount", "-o", "remount,size=16m", str(small)], check=True)
        again = cli(*night, "-o", small / "out")
        assert again.code == 0, again.err
        assert len(list((small / "out").glob("*.txt"))) == 40
    finally:
        subprocess.run(["umount", str(small)], check=False)
