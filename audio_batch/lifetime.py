"""The life of the process and of its children.

Signals that ask it to stop, a report if it crashes, a hard end; children that the terminal's and
the scheduler's signals do not reach, and that never outlive it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from audio_batch.control import StopControl

if sys.platform == "win32":
    from audio_batch import windows

_log = logging.getLogger("audio_batch.run")

WARNING_GRACE_S = 50.0
"""What a scheduler's early warning leaves. Slurm's (`--signal=USR1`) and Grid Engine's (`-notify`)
come 60 s before the end unless they are told otherwise, and Grid Engine's end is SIGKILL."""

_CLOSING_GRACE_S = 4.0
"""Windows ends a program 5 s after its console was closed, its user logged off, or it shuts down
(SPI_GETHUNGAPPTIMEOUT, SPI_GETWAITTOKILLTIMEOUT)."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_BY_HAND = frozenset({"SIGINT"})
_ORDERS = frozenset({"SIGTERM", "SIGHUP", "SIGBREAK"})
_WARNINGS = frozenset({"SIGUSR1", "SIGUSR2", "SIGXCPU"})

STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in sorted(_BY_HAND | _ORDERS | _WARNINGS)
    if hasattr(signal, name)
)
"""Every signal that asks the run to stop, as far as this system has it."""


@contextmanager
def signals_to(stop: StopControl) -> Iterator[None]:
    """Turn signals into requests to stop. Main thread only.

    Ctrl-C (SIGINT) finishes what runs; a second one drops it. SIGTERM, SIGHUP and Ctrl-Break (a
    scheduler's, a shutdown's, a closed terminal's) leave running work a grace period and no more.
    SIGUSR1, SIGUSR2 and SIGXCPU are a scheduler's early warning: `WARNING_GRACE_S`; a SIGTERM that
    follows may shorten it. On Windows a closed console, a log-off and a shutdown leave 4 s.

    Ctrl-Z (SIGTSTP) stops and continues as it does everywhere; see `watchdog.Ticker`.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if name in _WARNINGS:
            stop.request(name, within_s=WARNING_GRACE_S)
        else:
            stop.request(name, within_grace=name in _ORDERS)

    with _handled_by(handle):
        if sys.platform == "win32":
            with windows.closing_to(lambda name: stop.request(name, within_s=_CLOSING_GRACE_S)):
                yield
        else:
            yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Have every signal that asks to stop end what is done here as Ctrl-C does. Main thread only.

    For all that comes before `signals_to` and after it: otherwise a scheduler's warning that comes
    while the run still plans kills it with an exit code of its own.

    Raises:
        KeyboardInterrupt: in the body, when a signal came.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    with _handled_by(handle):
        yield


_Handler = Callable[[int, FrameType | None], None]


@contextmanager
def _handled_by(handle: _Handler) -> Iterator[None]:
    previous = {}
    for number in STOP_SIGNALS:
        # nohup starts us with SIGHUP ignored, a shell's `&` with SIGINT, and they mean it.
        if signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            if handler is not None:  # a library's own, not Python's: it cannot be put back
                signal.signal(number, handler)


@contextmanager
def crash_report(path: Path) -> Iterator[None]:
    """Have a native crash (segmentation fault, abort) leave every thread's position in a file.

    A file with something in it tells the next run that the program crashed, not that it was
    killed: only then are the assets that ran under suspicion. A disk that refuses the file costs
    this report and nothing else.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("w", encoding="utf-8"))
        except OSError as error:
            _log.warning("Crashes will leave no report in %s: %s.", path, error.strerror or error)
        else:
            faulthandler.enable(file, all_threads=True)
            stack.callback(faulthandler.disable)
        yield
    with suppress(OSError):
        path.unlink(missing_ok=True)


def leave(code: int) -> None:
    """End a process whose dropped work cannot be stopped: native code holds its threads."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a terminal that was closed
            stream.flush()
    os._exit(code)


# -- children ------------------------------------------------------------------------------------


@contextmanager
def shielded() -> Iterator[None]:
    """Begin a child process in here: no signal that asks to stop reaches it before it is ready.

    Ctrl-C, a closed terminal and most schedulers signal the whole group of processes. What a child
    has at work is for the parent to decide about. The child calls `ignore_stop_signals` first.

    On POSIX the calling thread's signals wait until the end of this block, and the child begins
    with them held. On Windows the process is deaf to Ctrl-C for the moment, and the child for good.
    """
    if sys.platform == "win32":
        with windows.deaf_to_ctrl_c():
            yield
    else:
        held = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)


def ignore_stop_signals() -> None:
    """Leave every request to stop to the parent. A child's main thread, first thing it does.

    Its own children inherit this. SIGTSTP stays as it is: Ctrl-Z stops parent and children alike.
    On Windows a closed console, a log-off and a shutdown wait for the parent, which ends the child.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "win32":
        windows.leave_console_events_to_parent()
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this child when its parent dies, however it dies. Linux only.

    On Windows `ChildKeeper` does the same from the parent's side. Elsewhere a child has to end at
    the end of the pipe that it reads its orders from, which a native call can delay.

    The kernel takes the thread that began the child for the parent: begin children in a thread
    that lives as long as the run.

    Args:
        parent_pid: `os.getpid()` of the parent, handed to the child: a parent that has died before
            this call is recognised by it.
    """
    if sys.platform == "win32":
        return
    if sys.platform == "linux":
        # A kernel that refuses (a sandbox) leaves the end of the pipe.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


class ChildKeeper:
    """The parent's side of `die_with_parent`: on Windows a job object, elsewhere nothing.

    Windows ends all processes of a job when the last handle to it is closed, which it does itself
    for a program that dies. Keep the keeper as long as the run. Where Windows refuses a job, a
    child ends at the end of its pipe, as on other systems.
    """

    def __init__(self) -> None:
        if sys.platform == "win32":
            self._job: windows.Job | None = None
            with suppress(OSError):
                self._job = windows.Job()

    def adopt(self, pid: int) -> None:
        """Take in a child, right after it was begun."""
        if sys.platform == "win32" and self._job is not None:
            with suppress(OSError):
                self._job.add(pid)

    def close(self) -> None:
        """End all children that still run."""
        if sys.platform == "win32" and self._job is not None:
            self._job.close()
