"""Good manners on a machine that others use: a lower priority for the processor and the disk.

Linux keeps both priorities by thread, Windows by process. A new thread and a child process begin
with those of the thread that begins them (on Windows: a process of lower priority passes its class
on), so `apply` early is enough for all that comes later; threads that libraries have begun at
their import are seen to here.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Literal

import psutil

from audio_batch.errors import UsageError

IoNice = Literal["idle", "low"]

_IDLE_FROM = 10
"""On Windows, which has two classes below normal: from this niceness on the lower one."""


def apply(nice: int | None, ionice: IoNice | None) -> tuple[str, ...]:
    """Lower this process's priorities. Main thread, before workers and children are begun.

    A priority that is lower already (cron's `nice`, systemd's `Nice=`) stays as it is.

    Args:
        nice: the niceness from 1 to 19, as `nice` counts; None leaves it. On Windows up to 9 is
            below normal, from 10 on idle.
        ionice: low is the least of the ordinary disk priorities, idle gets the disk only when
            nobody else wants it; None leaves it.

    Returns:
        What could not be done, a sentence each.

    Raises:
        UsageError: a value that is none, or that would raise the priority.
    """
    # No look at the system before both values are known to be good.
    if nice is not None and not 1 <= nice <= 19:
        raise UsageError(
            f"--nice {nice}: the priority can only be lowered.",
            remedy="Say 1 (a little) to 19 (the most); without --nice it stays as it is.",
        )
    if ionice not in (None, "idle", "low"):
        raise UsageError(f"--ionice {ionice!r} is no priority.", remedy="Say idle or low.")
    warnings = []
    if nice is not None:
        warnings += _lower_cpu(nice)
    if ionice is not None:
        warnings += _lower_io(ionice)
    return tuple(warnings)


def _lower_cpu(nice: int) -> list[str]:
    try:
        if sys.platform == "win32":
            wanted = (
                psutil.BELOW_NORMAL_PRIORITY_CLASS
                if nice < _IDLE_FROM
                else psutil.IDLE_PRIORITY_CLASS
            )
            me = psutil.Process()
            if me.nice() != psutil.IDLE_PRIORITY_CLASS:
                me.nice(wanted)
        else:
            for thread in _threads():
                with suppress(ProcessLookupError):  # it has ended
                    if os.getpriority(os.PRIO_PROCESS, thread) < nice:
                        os.setpriority(os.PRIO_PROCESS, thread, nice)
    except (psutil.Error, OSError) as error:
        return [f"--nice {nice} has no effect: the system refuses it ({error})."]
    return []


def _lower_io(ionice: IoNice) -> list[str]:
    try:
        if sys.platform == "win32":
            level = psutil.IOPRIO_VERYLOW if ionice == "idle" else psutil.IOPRIO_LOW
            me = psutil.Process()
            held: object = me.ionice()
            if held != psutil.IOPRIO_VERYLOW:
                me.ionice(level)
        elif sys.platform == "linux":
            for thread in _threads():
                with suppress(psutil.NoSuchProcess):  # it has ended
                    _lower_io_of(psutil.Process(thread), ionice)
        else:
            return ["--ionice has no effect: this system has no disk priorities to choose."]
    except (psutil.Error, OSError) as error:
        return [f"--ionice {ionice} has no effect: the system refuses it ({error})."]
    return []


if sys.platform == "linux":

    def _lower_io_of(thread: psutil.Process, ionice: IoNice) -> None:
        held = thread.ionice().ioclass
        if held == psutil.IOPRIO_CLASS_IDLE:
            return
        if ionice == "idle":
            thread.ionice(psutil.IOPRIO_CLASS_IDLE)
        else:
            thread.ionice(psutil.IOPRIO_CLASS_BE, 7)


def _threads() -> list[int]:
    """The numbers by which the system knows this process's threads, where each has priorities."""
    if sys.platform == "linux":
        return [thread.id for thread in psutil.Process().threads()]
    return [os.getpid()]
