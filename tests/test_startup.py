"""What answers at once imports nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from program import environment

from audio_batch.cli.tree import command_line

HEAVY = ["torch", "ctranslate2", "faster_whisper", "pyannote", "whisperx", "av", "numpy"]

SCRIPT = """
import json, sys
from audio_batch.cli import run_app
code = None
try:
    code = run_app(json.loads(sys.argv[1]))
except SystemExit as leaving:
    code = leaving.code
heavy = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
print("\\n" + json.dumps([int(code or 0), heavy]))
"""


def answer(
    arguments: list[str], folder: Path, heavy: list[str], **more: str
) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(arguments), json.dumps(heavy)],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        check=True,
    )
    code, imported = json.loads(done.stdout.splitlines()[-1])
    return code, imported


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["run", "--help"], 0),
        (["models", "--help"], 0),
        (["manifest", "schema"], 0),
        (["no-such-command"], 2),
        (["run"], 2),
        (["status", "nowhere"], 2),
    ],
)
def test_nothing_heavy_is_imported(arguments: list[str], code: int, tmp_path: Path) -> None:
    assert answer(arguments, tmp_path, HEAVY) == (code, [])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "missing.json"], 4),
        (["run", "broken.json"], 4),
        (["run", "good.json", "--model", "no such model"], 2),
        (["run", "good.json", "--model", "tiny"], 5),
        (["run", "good.json", "--model", "demo", "--beam-size", "0"], 2),
        (["run", "good.json", "--model", "demo", "--output-format", "doc"], 2),
        (["run", "good.json", "--model", "demo", "--device", "tpu"], 2),
    ],
)
def test_an_error_that_needs_no_model_loads_no_speech_library(
    arguments: list[str], code: int, tmp_path: Path
) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "good.json").write_text('[{"id": "a", "path": "a.wav"}]')
    (tmp_path / "broken.json").write_text('[{"id": "a", "path": ')
    speech = ["torch", "ctranslate2", "faster_whisper", "pyannote", "whisperx"]
    assert answer(arguments, tmp_path, speech) == (code, [])


@pytest.mark.parametrize(
    ("arguments", "code", "others"),
    [
        (["--version"], 0, ["audio_batch.cli.run", "audio_batch.cli.status"]),
        (["status", "nowhere"], 2, ["audio_batch.cli.run", "audio_batch.cli.doctor"]),
    ],
)
def test_only_the_command_that_is_asked_for_is_imported(
    arguments: list[str], code: int, others: list[str], tmp_path: Path
) -> None:
    assert answer(arguments, tmp_path, others) == (code, [])


def test_a_command_is_the_same_alone_as_among_all() -> None:
    def of(*arguments: str) -> dict[str, Any]:
        group: Any = typer.main.get_command(command_line(arguments))
        return {
            name: (command.help, [(one.name, one.opts, one.help) for one in command.params])
            for name, command in group.commands.items()
        }

    everything = of()
    assert {"run", "manifest", "schedule"} < set(everything)
    for name, command in everything.items():
        assert of(name) == {name: command}
    assert of("no-such-command").keys() == everything.keys()


@pytest.mark.parametrize(
    ("token", "login", "found"),
    [("", "", []), ("hf_abc", "", ["requests"]), ("", "hf_abc", ["requests"])],
)
def test_a_login_is_looked_for_only_where_there_may_be_one(
    token: str, login: str, found: list[str], tmp_path: Path
) -> None:
    if login:
        (tmp_path / "hub").mkdir()
        (tmp_path / "hub/token").write_text(login)
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "one.json").write_text('[{"id": "a", "path": "a.wav"}]')
    arguments = ["run", "one.json", "--engine", "null"]
    more = {"HF_HOME": str(tmp_path / "hub"), "HF_TOKEN": token}
    assert answer(arguments, tmp_path, ["requests"], **more) == (3, found)


def test_python_dash_m_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "audio_batch", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("audio-batch 0.")
