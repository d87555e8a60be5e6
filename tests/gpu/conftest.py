"""Simulated machines for the tests of `audio_batch.gpu`."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def drive() -> Callable[..., dict[str, Any]]:
    """Run `gpu_driver.py` in an environment and return what it prints."""

    def run(environ: dict[str, str], *words: object) -> dict[str, Any]:
        python_path = os.pathsep.join(filter(None, [str(REPO), environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("gpu_driver.py")), *map(str, words)],
            env={**environ, "PYTHONPATH": python_path},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return run


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a shell script named `nvidia-smi`, with the given body, first on PATH."""
    if os.name == "nt":
        pytest.skip("the simulated nvidia-smi is a shell script")

    def put(body: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        script = folder / "nvidia-smi"
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return script

    return put
