"""Ends the processes of a Ray that was started for one run, should the run be killed.

    python -m audio_batch.ray_keeper MARK FOLDER

Ray ends most of its processes with the program that started them, and leaves some for minutes. This
one waits for the end of its standard input, which is the death of the run, and then ends all whose
environment bears the mark, or who writes into Ray's folder, and removes the folder. A run that ends
by itself ends this first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import time
from pathlib import Path

import psutil

VARIABLE = "AUDIO_BATCH_RAY_MARK"

_ROUNDS = 40
_QUIET_ROUNDS = 2
"""One that found nobody is not enough: who just becomes another program shows no environment."""

_PAUSE_S = 0.25


def main(mark: str, folder: str) -> None:
    """Wait, then sweep until nothing is left."""
    from audio_batch.lifetime import ignore_stop_signals

    ignore_stop_signals()
    sys.stdin.buffer.read()
    quiet = 0
    for _ in range(_ROUNDS):
        quiet = 0 if _end_all(mark, Path(folder).resolve()) else quiet + 1
        if quiet == _QUIET_ROUNDS:
            break
        time.sleep(_PAUSE_S)
    shutil.rmtree(folder, ignore_errors=True)


def _end_all(mark: str, folder: Path) -> int:
    """How many there were."""
    found = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid():
                continue
            if _bears(process, mark) or _writes_to(process, folder):
                process.kill()
                found += 1
    return found


def _bears(process: psutil.Process, mark: str) -> bool:
    """Whether the mark is in its environment."""
    if sys.platform == "linux":
        # Who changes its title leaves gaps in it, at which psutil stops.
        block = Path(f"/proc/{process.pid}/environ").read_bytes()
        return f"{VARIABLE}={mark}".encode() in block.split(b"\0")
    return bool(process.environ().get(VARIABLE) == mark)


def _writes_to(process: psutil.Process, folder: Path) -> bool:
    """Whether it holds a file of the folder open for writing, as all of Ray does: its logs.

    The titles of Ray's agents are written over their environments, and may cover the mark.
    """
    if sys.platform != "linux":
        return False
    for opened in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if opened.lstat().st_mode & stat.S_IWUSR and opened.readlink().is_relative_to(folder):
                return True
    return False


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
