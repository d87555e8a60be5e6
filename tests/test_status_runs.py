"""What `status` says of runs: at work, killed, with nothing to do; and of how many assets."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import filelock
from program import Answer, command, environment, write_manifest

from audio_batch.folder_lock import LOCK, is_held
from audio_batch.journal import Journal
from audio_batch.output_folder import OutputFolder

Cli = Callable[..., Answer]
NULL = ("--engine", "null", "--no-diarize")


def last_run(cli: Cli, out: Path) -> dict[str, Any]:
    answer = cli("status", out, "--json", "--counts")
    assert answer.code == 0
    told: dict[str, Any] = json.loads(answer.out)["last_run"]
    return told


def rows(out: Path) -> int:
    with closing(sqlite3.connect(OutputFolder(out).journal_path)) as journal:
        ((count,),) = journal.execute("SELECT count(*) FROM runs").fetchall()
    return int(count)


def test_a_run_is_at_work_as_long_as_it_holds_its_lock(
    cli: Cli, tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    out = tmp_path / "out"
    write_manifest(tmp_path, 3)
    slow = ("--model", "null:60000", "--threads", "1", "-o", out)
    run = subprocess.Popen(
        command("run", tmp_path / "manifest.json", *NULL, *slow),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    children.append(run)
    until_s = time.monotonic() + 240
    while "running of 3 selected" not in (at_work := cli("status", out, "--counts").out):
        assert run.poll() is None and time.monotonic() < until_s
        time.sleep(0.1)
    assert last_run(cli, out)["at_work"] is True
    run.kill()
    run.wait()
    assert "with 3 of 3 assets to do, is at work." in at_work
    killed = cli("status", out).out
    assert "with 3 of 3 assets to do, was interrupted: nobody is at work." in killed
    assert "interrupted of 3 selected" in killed
    told = last_run(cli, out)
    asked = (told["at_work"], told["exit_code"], told["selected"], told["todo"])
    assert asked == (False, None, 3, 3)


def test_whoever_asks_for_the_lock_keeps_no_run_from_beginning(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "out")
    folder.create()
    assert is_held(folder.state) is False
    with folder.locked():
        assert is_held(folder.state) is True
    assert is_held(folder.state) is False
    asked = filelock.FileLock(folder.state / LOCK, fallback_to_soft=False, thread_local=False)
    asked.acquire()
    threading.Timer(0.05, asked.release).start()
    with folder.locked():
        assert is_held(folder.state) is True


def test_the_last_run_is_the_last_one_though_it_had_nothing_to_do(cli: Cli, tmp_path: Path) -> None:
    manifest, out = write_manifest(tmp_path, 2), tmp_path / "out"
    (tmp_path / "audio/tone-001.wav").write_bytes(b"no recording")
    run = ("run", manifest, *NULL, "-o", out)
    assert cli(*run).code == 3
    begun = [last_run(cli, out)]
    for _ in range(3):
        assert cli(*run).code == 3
        begun.append(last_run(cli, out))
    times = [one["started_at"] for one in begun]
    assert times == sorted(times) and len(set(times)) == 4
    assert [one["todo"] for one in begun] == [2, 0, 0, 0]
    assert all(one["finished_at"] >= one["started_at"] for one in begun)
    assert "with 0 of 2 assets to do, ended with exit code 3." in cli("status", out).out
    assert rows(out) == 2  # and no more, however often it looks in
    assert cli(*run, "--limit", 1).code == 0
    assert last_run(cli, out)["selected"] == 1
    assert rows(out) == 3


def test_what_cannot_be_known_of_how_many_there_were_is_not_told(cli: Cli, tmp_path: Path) -> None:
    """A journal of an earlier version, and parts that have not begun."""
    out = tmp_path / "out"
    folder = OutputFolder(out)
    folder.create()
    journal = Journal(folder.journal_path)
    journal.end_run(journal.begin_run(version="0", request={}), 0)
    journal.close()
    told = last_run(cli, out)
    assert (told["selected"], told["todo"], told["at_work"]) == (None, None, False)
    text = cli("status", out).out
    assert "ended with exit code 0." in text and "selected" not in text


def test_what_had_nothing_to_do_is_not_repeated(cli: Cli, tmp_path: Path) -> None:
    manifest, out = write_manifest(tmp_path, 2), tmp_path / "out"
    (tmp_path / "audio/tone-001.wav").write_bytes(b"no recording")
    results = f"sqlite:///{tmp_path / 'results.sqlite3'}"
    assert cli("run", manifest, *NULL, "-o", out, "--results-db", results).code == 3
    assert cli("run", manifest, *NULL, "-o", out, "--limit", 1).code == 0  # nothing to do
    assert (last_run(cli, out)["selected"], last_run(cli, out)["todo"]) == (1, 0)
    pushed = cli("results", "push", out)
    assert pushed.code == 0, pushed.err
    again = cli("retry", out, "--yes")
    assert again.code == 3, again.err
    assert (last_run(cli, out)["selected"], last_run(cli, out)["todo"]) == (2, 1)


def test_a_folder_whose_runs_all_had_nothing_to_do_has_a_last_one(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "journal.sqlite3")) as journal:
        assert journal.last_run(idle=False) is None
        journal.record_idle_run(version="0", request={"todo": 0}, started_at=1.0, exit_code=0)
        assert journal.last_run(idle=False) is not None
        begun = journal.begin_run(version="0", request={})  # as an earlier version did
        journal.record_idle_run(version="0", request={"todo": 0}, started_at=2.0, exit_code=0)
        last = journal.last_run(idle=False)
        assert last is not None and last.run_id == begun
