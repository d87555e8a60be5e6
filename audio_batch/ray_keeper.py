"""Ends the processes of a Ray that was started for one run, should the run be killed.

    python -m audio_batch.ray_keeper MARK FOLDER

Ray ends most of its processes with the program that started them, and leaves some for minutes. This
one waits for the end of its standard input, which is the death of the run, and then ends all whose
environment bears the mark, and removes Ray's folder. A run that ends by itself ends this first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

import psutil

VARIABLE = "AUDIO_BATCH_RAY_MARK"

_ROUNDS = 20
_PAUSE_S = 0.25


def main(mark: str, folder: str) -> None:
    """Wait, then sweep until nothing is left."""
    from audio_batch.lifetime import ignore_stop_signals

    ignore_stop_signals()
    sys.stdin.buffer.read()
    for _ in range(_ROUNDS):
        if not _end_all(mark):
            break
        time.sleep(_PAUSE_S)
    shutil.rmtree(folder, ignore_errors=True)


def _end_all(mark: str) -> int:
    """How many there were."""
    found = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and _bears(process, mark):
                process.kill()
                found += 1
    return found


def _bears(process: psutil.Process, mark: str) -> bool:
    """Whether the mark is in its environment."""
    if sys.platform == "linux":
        # Who changes its title, as Ray's agents do, leaves gaps in it, at which psutil stops.
        block = Path(f"/proc/{process.pid}/environ").read_bytes()
        return f"{VARIABLE}={mark}".encode() in block.split(b"\0")
    return bool(process.environ().get(VARIABLE) == mark)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
