"""What answers at once imports nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from program import environment

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


def answer(arguments: list[str], folder: Path, heavy: list[str]) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(arguments), json.dumps(heavy)],
        cwd=folder,
        env=environment(),
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


def test_python_dash_m_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "audio_batch", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("audio-batch 0.")
