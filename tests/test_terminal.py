"""The live display on a real pseudo-terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faulty_engine
import pytest
from program import command, environment, write_manifest

from audio_batch.journal import Journal
from audio_batch.output_folder import OutputFolder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX pseudo-terminal")

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(
    folder: Path,
    *arguments: object,
    answers: dict[str, str],
    columns: int = 120,
    when: dict[str, Callable[[], None]] | None = None,
    **more: str,
) -> tuple[int, str]:
    """Run the program on a terminal of its own, typing each answer when its question appears.

    `when` holds what else is done when a text appears.
    """
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        line = command(*arguments)
        env = environment(TERM="xterm", COLUMNS=str(columns), LINES="30", **more)
        os.execvpe(line[0], line, env)
    shown, waiting, awaited = "", dict(answers), dict(when or {})
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            shown += os.read(terminal, 65536).decode("utf-8", "replace")
        except OSError:  # the other end is closed: the program has ended
            break
        for question, answer in list(waiting.items()):
            if question in shown:
                os.write(terminal, answer.encode())
                del waiting[question]
        for text in [text for text in awaited if text in ESCAPE.sub("", shown)]:
            awaited.pop(text)()
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), ESCAPE.sub("", shown)


NIGHT = ("run", "manifest.json", "--engine", "null", "--model", "null:400", "-o", "out")


def test_the_display_shows_devices_assets_seconds_and_failures_as_they_come(
    tmp_path: Path,
) -> None:
    write_manifest(tmp_path, 6)
    (tmp_path / "audio/tone-001.wav").write_text("no recording")
    until = tmp_path / "until"
    faults = json.dumps({"hold": [4], "until": str(until)})
    night = ("run", "manifest.json", "--engine", "faulty", "-o", "out", "--yes", "--prefetch", "0")
    code, shown = on_terminal(
        *(tmp_path, *night),
        answers={},
        when={"tone-004": until.touch},  # drawn while it is at work, or never
        **faulty_engine.install(tmp_path / "plugin"),
        FAULTY_ENGINE=faults,
    )
    assert code == 3
    assert "tone-004" in shown
    assert re.search(r"cpu +1/1", shown)
    assert re.search(r"\d/6 +1 failed +0:0\d of 0:0\d +[\d.]+x +0:0\d left", shown)
    assert "Failed: tone-001" in shown
    assert "done now" in shown
    assert "GPU Balancer Status" not in shown


def test_status_is_a_table_where_there_is_room_for_one(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "out")
    folder.create()
    journal = Journal(folder.journal_path)
    run = journal.begin_run(version="0", request={})
    how = {"source": "1", "fingerprint": "f", "rendering": "r", "device": "cpu"}
    journal.start("a-1", name="A", run_id=run, **how)
    journal.close()
    table = re.compile("│ a-1 +│ A +│ interrupted +│ 1 +│ cpu +│")
    assert table.search(on_terminal(tmp_path, "status", "out", answers={})[1])
    narrow = on_terminal(tmp_path, "status", "out", answers={}, columns=80)[1]
    assert "interrupted a-1 (A) on cpu" in narrow and not table.search(narrow)


def test_without_yes_a_failure_asks_and_no_stops(tmp_path: Path) -> None:
    write_manifest(tmp_path, 6)
    (tmp_path / "audio/tone-001.wav").write_text("no recording")
    night = (*NIGHT, "--order", "manifest")
    code, shown = on_terminal(tmp_path, *night, answers={"Go on with the others?": "n\n"})
    assert code == 3
    assert "not done yet" in shown


def test_no_progress_gives_plain_lines_on_a_terminal_too(tmp_path: Path) -> None:
    write_manifest(tmp_path, 2)
    code, shown = on_terminal(tmp_path, *NIGHT, "--no-progress", answers={})
    assert code == 0
    assert "INFO - [1/2] Processing: tone-000" in shown


def test_the_end_of_the_input_is_a_yes_and_asks_no_more(tmp_path: Path) -> None:
    write_manifest(tmp_path, 6)
    for number in (1, 3):
        (tmp_path / f"audio/tone-00{number}.wav").write_text("no recording")
    code, shown = on_terminal(tmp_path, *NIGHT, answers={"Go on with the others?": "\x04"})
    assert code == 3
    assert shown.count("Go on with the others?") == 1
    assert re.search(r"done now\W+4", shown)


def test_a_terminal_that_closes_costs_nothing(tmp_path: Path) -> None:
    import pty

    write_manifest(tmp_path, 6)
    (tmp_path / "audio/tone-004.wav").write_text("no recording")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        line = command(*NIGHT)
        os.execvpe(line[0], line, environment(TERM="xterm", COLUMNS="120"))
    summary = tmp_path / "out/summary.json"
    seen = b""
    while b"Failed: tone-004" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 3
    told = json.loads(summary.read_text())
    assert (told["done"], told["failed"]) == (5, 1)
