"""`--split-long` in whole runs: parts on several slots, one transcript, nothing done twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from program import command, environment, write_manifest

from audio_batch.journal import Journal
from audio_batch.outcome import State

LONG_S = 640.0


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(
            *("run", "manifest.json", "-o", "out", "--max-per-gpu", "2", "--device", "cpu"),
            *("--split-long", "10m", *arguments),
        ),
        cwd=folder,
        env=environment(AUDIO_BATCH_CACHE_DIR=str(folder / "cache")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def night(folder: Path, *arguments: object) -> tuple[int, str]:
    process = start(folder, *arguments)
    _, told = process.communicate(timeout=240)
    return process.returncode, told


def test_a_long_recording_is_done_in_parts_and_a_short_one_is_not(tmp_path: Path) -> None:
    write_manifest(tmp_path, 1, duration_s=LONG_S)
    code, told = night(tmp_path, "--engine", "null", "--prefetch", "0")
    assert code == 0, told
    parts = re.findall(r"Processing: tone-000 \((\w+)\)", told)
    assert sorted(parts) == ["1of2", "2of2"]
    (transcript,) = (tmp_path / "out").rglob("tone-000.json")
    document = json.loads(transcript.read_text())
    heard = [float(s["text"].split()[0]) for s in document["segments"]]
    assert len(heard) == 2
    assert sum(heard) == pytest.approx(LONG_S, abs=0.01)
    assert document["segments"][1]["start_s"] == pytest.approx(heard[0], abs=0.01)
    with_parts = Journal(tmp_path / "out/.audio-batch/journal.sqlite3", read_only=True)
    (entry,) = with_parts.entries()
    assert (entry.state, entry.attempts) == (State.DONE, 1)
    assert with_parts.parts() == {}
    assert night(tmp_path, "--engine", "null")[1].count("Nothing to do") == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="ends a process by SIGKILL")
def test_parts_that_were_heard_before_a_kill_are_not_heard_again(tmp_path: Path) -> None:
    write_manifest(tmp_path, 1, duration_s=LONG_S)
    flags = ("--engine", "null", "--model", "null:0.01x", "--threads", "1", "--prefetch", "0")
    process = start(tmp_path, *flags, "--max-per-gpu", "2")
    journal = tmp_path / "out/.audio-batch/journal.sqlite3"
    deadline = time.monotonic() + 120
    while not (journal.is_file() and _heard(journal)):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(_heard(journal)) == 1
    code, told = night(tmp_path, *flags, "--max-per-gpu", "2")
    assert code == 0, told
    again = re.findall(r"Processing: tone-000 \((\w+)\)", told)
    assert len(again) == 1
    assert [entry.state for entry in Journal(journal, read_only=True).entries()] == [State.DONE]


def _heard(journal: Path) -> list[str]:
    try:
        found = Journal(journal, read_only=True).parts()
    except Exception:  # it is just being made
        return []
    return [record.part for records in found.values() for record in records]


@pytest.mark.slow
def test_an_interrupted_division_counts_as_no_attempt(tmp_path: Path) -> None:
    write_manifest(tmp_path, 1, duration_s=LONG_S)
    process = start(tmp_path, "--engine", "null", "--model", "null:0.005x", "--threads", "1")
    deadline = time.monotonic() + 120
    journal = tmp_path / "out/.audio-batch/journal.sqlite3"
    while not (journal.is_file() and _heard(journal)):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT if os.name != "nt" else signal.CTRL_BREAK_EVENT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    (entry,) = Journal(journal, read_only=True).entries()
    assert (entry.state, entry.attempts) == (State.INTERRUPTED, 0)
