"""The life of the process: signals that ask it to stop, a report if it crashes, a hard end."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from audio_batch.control import StopControl


@contextmanager
def signals_to(stop: StopControl) -> Iterator[None]:
    """Turn signals into requests to stop: once finishes what runs, twice drops it.

    SIGTERM (a scheduler's, a shutdown's) leaves running work a grace period and no more.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        stop.request(signal.Signals(number).name, within_grace=number != signal.SIGINT)

    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    previous = {}
    for name in names:
        number = getattr(signal, name, None)
        # nohup starts us with SIGHUP ignored, and means it.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def crash_report(path: Path) -> Iterator[None]:
    """Have a native crash (segmentation fault, abort) leave every thread's position in a file.

    A file with something in it tells the next run that the program crashed, not that it was
    killed: only then are the assets that ran under suspicion.
    """
    with path.open("w", encoding="utf-8") as file:
        faulthandler.enable(file, all_threads=True)
        try:
            yield
        finally:
            faulthandler.disable()
    path.unlink(missing_ok=True)


def leave(code: int) -> None:
    """End a process whose dropped work cannot be stopped: native code holds its threads."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
