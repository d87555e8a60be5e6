"""Hostile names on a real pseudo-terminal: the bytes that reach it hold none of their commands."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from program import command, environment, write_tone

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX pseudo-terminal")

# A window's title, a cleared screen, C1's CSI, a bell, an override of direction, no width, markup.
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj\u2066\u200b\ufeff[bold red]x[/bold red][/]\x7f"
# Of these rich itself writes CSI sequences alone: what a title or C1 would need is never its own.
FORBIDDEN = ("\x1b]", "\x07", "\x1b[2J", "\x9b", "\u202e", "\u2066", "\u200b", "\ufeff", "\x7f")
PATH = "ev\x1b]0;owned\x07\u202eil [bold]x[/bold]"


def on_terminal(folder: Path, *arguments: object, answer: tuple[str, str] | None = None) -> str:
    """All that the program sends to a terminal of its own."""
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        line = command(*arguments)
        os.execvpe(line[0], line, environment(TERM="xterm", COLUMNS="200", LINES="50"))
    shown, deadline_s = b"", time.monotonic() + 240
    while time.monotonic() < deadline_s:
        try:
            shown += os.read(terminal, 65536)
        except OSError:
            break
        if answer is not None and answer[0].encode() in shown:
            os.write(terminal, answer[1].encode())
            answer = None
    os.waitpid(pid, 0)
    os.close(terminal)
    return shown.decode("utf-8")


def assert_harmless(shown: str) -> None:
    assert [sign for sign in FORBIDDEN if sign in shown] == []
    assert "Traceback" not in shown


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """A folder with a manifest of hostile names, one recording of two missing."""
    write_tone(tmp_path / "a.wav")
    entries = [
        {"id": "a\u202eb[bold]", "path": "a.wav", "name": HOSTILE},
        {"id": "lost[/]", "path": HOSTILE.replace("/", "") + ".wav", "name": HOSTILE},
    ]
    text = json.dumps({"assets": entries})
    (tmp_path / "m.json").write_text(text)
    (tmp_path / PATH.replace("/", "")).mkdir()
    (tmp_path / PATH.replace("/", "") / "m.json").write_text(text)
    (tmp_path / PATH.replace("/", "") / "audio-batch.toml").write_text('engine = "null"\n')
    return tmp_path


NULL = ("--engine", "null", "--allow-missing")


def test_the_display_the_question_and_the_table(night: Path) -> None:
    question = ("Go on with the others?", "n\n")
    flags = ("-o", "out", "--order", "reverse", "-v")
    shown = on_terminal(night, "run", "m.json", *NULL, *flags, answer=question)
    assert_harmless(shown)
    clean = "]0;owned[2J31mgpj[bold red]x[/bold red][/]"
    assert f"Failed: {clean}" in shown  # as it happened
    assert f"failed: {clean}" in shown  # in the end


def test_what_is_said_of_a_finished_run(night: Path) -> None:
    assert_harmless(on_terminal(night, "run", "m.json", *NULL, "-o", "out", "-y", "--no-progress"))
    for arguments in (("status", "out"), ("status", "out", "--json"), ("retry", "out", "-y")):
        shown = on_terminal(night, *arguments)
        assert_harmless(shown)
        assert "owned" in shown


def test_what_is_said_of_folders_and_files(night: Path) -> None:
    folder = PATH.replace("/", "")
    flags = ("--root", ".", "--allow-missing", "-y", "-o", f"{folder}/out")
    shown = on_terminal(night, "run", f"{folder}/m.json", *flags)
    assert_harmless(shown)
    assert "Settings from ev]0;ownedil [bold]x[bold]" in shown
    for arguments in (
        ("manifest", "check", f"{folder}/m.json"),
        ("run", f"{folder}/none.json"),
        ("status", folder),
        ("doctor", f"{folder}/m.json", "--engine", "null", "-o", folder),
    ):
        assert_harmless(on_terminal(night, *arguments))


def test_what_is_printed_as_json_steers_nothing(night: Path) -> None:
    flags = ("--log-format", "json", "-y", "-o", "out")
    shown = on_terminal(night, "run", "m.json", *NULL, *flags)
    assert_harmless(shown)
    assert "\x1b" not in shown
    told = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
    assert HOSTILE in {line.get("name") for line in told}
