"""Where peers live: a virtual environment for each, made once, or the present one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from audio_batch.bench.machine import installed

_VERSIONS = (
    "import importlib.metadata as m, sys\n"
    "for name in sys.argv[1:]:\n"
    "    try: print(name, m.version(name))\n"
    "    except m.PackageNotFoundError: pass\n"
)
_SHOWN = ("whisperx", "whisper-ctranslate2", "faster-whisper", "ctranslate2", "torch", "numpy")


class CannotInstall(Exception):
    """A peer is not to be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Environment:
    """An interpreter, and the versions of what matters in it."""

    python: Path
    versions: dict[str, str]

    def program(self, name: str) -> Path:
        """A console script that was installed beside the interpreter."""
        return self.python.parent / (f"{name}.exe" if os.name == "nt" else name)


class Environments:
    """Finds or makes the environment of a package.

    Args:
        folder: where environments are made, and found again by the next bench.
        reuse: whether the present environment will do where the package is installed in it.
        tell: gets a line before something is installed.
    """

    def __init__(self, folder: Path, *, reuse: bool, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._reuse = reuse
        self._tell = tell

    def of(self, package: str) -> Environment:
        """The environment with this package in it.

        Raises:
            CannotInstall: pip could not bring it.
        """
        if self._reuse and installed(package):
            here = Path(sys.executable)
            return Environment(here, _versions(here))
        home = self._folder / package
        python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if package not in _versions(python):
            self._tell(f"Installing {package} into {home}")
            begun_s = time.perf_counter()
            _run([sys.executable, "-m", "venv", str(home)], "no virtual environment")
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _run([*pip, package], f"pip cannot install {package}")
            self._tell(f"{package} installed in {time.perf_counter() - begun_s:.0f} s")
        return Environment(python, _versions(python))


_ASKED_S = 120.0
_INSTALLED_S = 3600.0


def _versions(python: Path) -> dict[str, str]:
    try:
        answer = subprocess.run(
            [str(python), "-c", _VERSIONS, *_SHOWN],
            capture_output=True,
            text=True,
            check=True,
            timeout=_ASKED_S,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(line.split(" ", 1) for line in answer.stdout.splitlines() if " " in line)


def _run(command: list[str], problem: str) -> None:
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_INSTALLED_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotInstall(f"{problem}: {error}") from error
    if answer.returncode:
        said = (answer.stderr or answer.stdout).strip().splitlines()
        raise CannotInstall(f"{problem}: {said[-1] if said else answer.returncode}")
