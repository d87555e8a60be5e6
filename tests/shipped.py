"""What the tests of `examples/` share: a copy of them, the program on PATH, a command run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from program import PROJECT, Answer, environment

EXAMPLES = PROJECT / "examples"
MAKER = PROJECT / "scripts" / "make_examples.py"
ASSETS: list[dict[str, Any]] = json.loads((EXAMPLES / "manifest.json").read_text(encoding="utf-8"))[
    "assets"
]
SPOKEN = [asset for asset in ASSETS if asset["id"] != "broken"]
NULL = {"AUDIO_BATCH_ENGINE": "null", "AUDIO_BATCH_MODEL": "null"}
REASON = "broken.wav is not a recording in a format that this program reads."

needs_posix = pytest.mark.skipif(
    os.name != "posix" or shutil.which("sh") is None, reason="needs a POSIX shell"
)


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def install(folder: Path) -> Path:
    """The program as a user has it on PATH, with this interpreter."""
    return executable(
        folder / "audio-batch", f'#!/bin/sh\nexec "{sys.executable}" -m audio_batch "$@"\n'
    )


def with_path(folder: Path, **more: str) -> dict[str, str]:
    return environment(PATH=f"{folder}{os.pathsep}{os.environ['PATH']}", **more)


def ended(arguments: Sequence[object], cwd: Path, env: dict[str, str]) -> Answer:
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=600,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def copied(folder: Path) -> Path:
    """The examples as they are shipped, without what somebody's runs left in them."""
    left_out = shutil.ignore_patterns("out", "assets.json", "run_batch.log")
    return Path(shutil.copytree(EXAMPLES, folder, ignore=left_out))
