"""A child process for each device: one device's death is one device's death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import faulty_engine
import psutil
import pytest
from attempt_rows import count_attempts
from forked import completed
from nights import assert_gone, done_stamps, family, started, wait_until, workers
from program import Answer, command, environment, write_manifest

from audio_batch.journal import Journal, JournalEntry
from audio_batch.outcome import State

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


def night(
    folder: Path, count: int, faults: dict[str, Any], *arguments: object, **more: str
) -> Answer:
    """A run of `count` recordings with these faults, in processes."""
    if not (folder / "manifest.json").exists():
        write_manifest(folder, count)
    run = ("run", "manifest.json", "--engine", "faulty", "-o", "out", "--retry-delay", "0.01")
    given = (*run, "--isolation", "process", *arguments)
    answer = completed(given, folder, variables(folder, faults, **more))
    assert "Traceback" not in answer.err, answer.err
    return answer


def variables(folder: Path, faults: dict[str, Any], **more: str) -> dict[str, str]:
    return environment(
        **faulty_engine.install(folder / "plugin"),
        FAULTY_ENGINE=json.dumps(faults),
        AUDIO_BATCH_CACHE_DIR=str(folder / "cache"),
        **more,
    )


def entries(folder: Path) -> dict[str, JournalEntry]:
    journal = Journal(folder / "out/.audio-batch/journal.sqlite3", read_only=True)
    try:
        return {entry.asset_id: entry for entry in journal.entries()}
    finally:
        journal.close()


def attempts(folder: Path) -> int:
    return count_attempts(folder / "out/.audio-batch/journal.sqlite3")


def states(folder: Path) -> Counter[State]:
    return Counter(entry.state for entry in entries(folder).values())


def test_processes_give_what_threads_give(tmp_path: Path) -> None:
    write_manifest(tmp_path, 6)
    outputs = []
    for isolation in ("thread", "process"):
        faults = {"fail": [3]}
        answer = night(tmp_path, 6, faults, "--isolation", isolation, "-o", isolation)
        assert answer.code == 3, answer.err
        texts = sorted((tmp_path / isolation).glob("*.txt"))
        outputs.append({path.name: path.read_text() for path in texts})
        summary = json.loads((tmp_path / isolation / "summary.json").read_text())
        assert summary["done"] == 5
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 5


@posix
@pytest.mark.parametrize(
    ("kind", "how", "evidence"),
    [
        ("abort", "SIGABRT", "on purpose"),
        pytest.param("segfault", "SIGSEGV", "Segmentation fault", marks=pytest.mark.slow),
        pytest.param("exit", "exit code 7", "", marks=pytest.mark.slow),
        ("killed", "SIGKILL", ""),
    ],
)
def test_an_asset_that_ends_its_process_is_set_aside_and_the_rest_is_done(
    kind: str, how: str, evidence: str, tmp_path: Path
) -> None:
    answer = night(tmp_path, 8, {kind: [2], "delay_ms": 20})
    assert answer.code == 3, answer.err
    found = entries(tmp_path)
    bad = found.pop("tone-002")
    assert {entry.state for entry in found.values()} == {State.DONE}
    assert bad.state is State.QUARANTINED
    assert bad.attempts <= 3
    assert how in (bad.error_text or "")
    assert evidence in (bad.error_text or "")
    assert "during transcribe on cpu" in (bad.error_text or "")
    # A rerun leaves it alone; --retry-failed tries it again, and finds it mended.
    assert night(tmp_path, 8, {kind: [2]}).code == 3
    assert entries(tmp_path)["tone-002"].attempts == bad.attempts
    assert night(tmp_path, 8, {}, "--retry-failed").code == 0


@posix
def test_what_dies_once_is_done_at_the_next_try_and_costs_its_neighbours_nothing(
    tmp_path: Path,
) -> None:
    faults = {"abort": [1, 4], "once": str(tmp_path), "delay_ms": 50}
    answer = night(tmp_path, 8, faults, "--max-per-gpu", "3", "--prefetch", "1")
    assert answer.code == 0, answer.err
    assert states(tmp_path) == {State.DONE: 8}
    assert "SIGABRT" in answer.err
    # Two deaths, each with three at work and one read ahead.
    assert attempts(tmp_path) <= 8 + 2 * (3 + 1)


@posix
@pytest.mark.parametrize(
    "kind", [pytest.param("hang", marks=pytest.mark.slow), "hang_in_native_code"]
)
def test_a_hang_is_ended_and_its_neighbours_are_not_to_blame(kind: str, tmp_path: Path) -> None:
    faults = {kind: [2], "delay_ms": 20}
    # Longer where nobody else may ever need it.
    timeout = "10" if kind == "hang" else "4"
    answer = night(tmp_path, 8, faults, "--timeout", timeout, "--max-per-gpu", "3")
    assert answer.code == 3, answer.err
    found = entries(tmp_path)
    bad = found.pop("tone-002")
    assert bad.error_kind == "timeout"
    assert "given up after" in (bad.error_text or "")
    assert {entry.state for entry in found.values()} == {State.DONE}
    if kind == "hang":  # else all threads of the process stand still, and the first is suspected
        assert bad.attempts == 2
        assert {entry.attempts for entry in found.values()} == {1}


@pytest.mark.slow
@posix
def test_a_thread_that_hangs_is_left_behind(tmp_path: Path) -> None:
    answer = night(
        tmp_path,
        6,
        {"hang": [2]},
        "--isolation",
        "thread",
        "--timeout",
        "10",
        "--max-attempts",
        "1",
    )
    assert answer.code == 3, answer.err
    found = entries(tmp_path)
    assert found.pop("tone-002").error_kind == "timeout"
    assert {entry.state for entry in found.values()} == {State.DONE}


@posix
def test_no_progress_is_noticed_before_the_time_is_over(tmp_path: Path) -> None:
    # It counts for loading too: a busy machine may need a few tries for that.
    limits = ("--stall-timeout", "6s", "--max-attempts", "1", "--max-restarts", "9")
    answer = night(tmp_path, 3, {"hang": [1]}, *limits)
    assert answer.code == 3, answer.err
    assert "has told nothing for" in (entries(tmp_path)["tone-001"].error_text or "")


def test_what_cannot_cross_the_border_fails_its_asset_only(tmp_path: Path) -> None:
    answer = night(tmp_path, 4, {"unpicklable": [1], "fail": [2]})
    assert answer.code == 3, answer.err
    found = entries(tmp_path)
    assert found["tone-002"].error_kind == "internal"
    assert "on purpose" in (found["tone-002"].error_text or "")
    assert found["tone-000"].state is found["tone-003"].state is State.DONE


def test_a_process_that_dies_while_it_loads_is_a_device_that_cannot(tmp_path: Path) -> None:
    answer = night(tmp_path, 2, {"abort_loading": ["cpu"]})
    assert answer.code == 5, answer.err
    assert "No device can run the models" in answer.err
    assert "SIGABRT" in answer.err


def test_memory_that_runs_out_costs_slots_then_precision_and_is_remembered(tmp_path: Path) -> None:
    faults = {"out_of_memory": [1, 3], "enough": ["int8"], "delay_ms": 50}
    answer = night(tmp_path, 6, faults, "--max-per-gpu", "2", "--compute-type", "float32")
    assert answer.code == 0, answer.err
    assert "1 instead of 2 assets at a time" in answer.err
    assert "int8 instead of float32" in answer.err
    assert {entry.attempts for entry in entries(tmp_path).values()} == {1}
    known = json.loads((tmp_path / "cache/devices.json").read_text())
    assert known["experiences"][0]["rung"]["compute_type"] == "int8"


def test_a_ladder_that_ends_fails_the_asset_alone(tmp_path: Path) -> None:
    faults = {"out_of_memory": [1], "enough": []}
    answer = night(tmp_path, 4, faults, "--max-per-gpu", "2")
    assert answer.code == 3, answer.err
    found = entries(tmp_path)
    assert found.pop("tone-001").error_kind == "out_of_memory"
    assert {entry.state for entry in found.values()} == {State.DONE}


@posix
def test_a_killed_run_leaves_no_orphans(tmp_path: Path) -> None:
    write_manifest(tmp_path, 4)
    begun, log = tmp_path / "begun", tmp_path / "log"
    faults = {"hang_in_native_code": [0, 1, 2, 3], "begins": str(begun)}
    words = ("run", "manifest.json", "--engine", "faulty", "-o", "out", "--isolation", "process")
    children: list[psutil.Process] = []
    try:
        with started(tmp_path, *words, env=variables(tmp_path, faults), log=log) as process:
            assert wait_until(begun.exists, process, log=log), log.read_text()
            children = family(process)
            assert workers(process)
            time.sleep(0.2)  # most often it hangs by now; it makes no difference
            process.kill()
            process.wait()
            assert_gone(children)
    finally:
        for child in children:
            if child.is_running():
                child.kill()


@posix
def test_ctrl_c_reaches_the_parent_alone(tmp_path: Path) -> None:
    """The terminal signals the whole group: what runs is finished all the same."""
    write_manifest(tmp_path, 60)
    process = subprocess.Popen(
        command(
            *("run", "manifest.json", "--engine", "faulty", "-o", "out"),
            *("--isolation", "process"),
        ),
        cwd=tmp_path,
        env=variables(tmp_path, {"delay_ms": 700}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        while not done_stamps(tmp_path / "out"):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=120)[0]
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "died" not in said
    assert State.RUNNING not in states(tmp_path)


@posix
def test_a_process_can_begin_though_the_current_folder_is_gone(tmp_path: Path) -> None:
    write_manifest(tmp_path, 4)
    gone = tmp_path / "gone"
    gone.mkdir()
    script = (
        "import os, sys; sys.path[:] = filter(None, sys.path); from audio_batch.cli import run_app;"
        "os.rmdir(os.getcwd());"
        "sys.exit(run_app(sys.argv[1:]))"
    )
    night = ("run", tmp_path / "manifest.json", "--engine", "faulty", "-o", tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, night), "--isolation", "process", "--no-diarize"],
        cwd=gone,
        env=variables(tmp_path, {}),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert states(tmp_path) == {State.DONE: 4}
