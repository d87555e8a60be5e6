"""What only Windows has: console events that end a program, and jobs that keep children.

Import it under `sys.platform == "win32"` only. Names and values are those of the Windows SDK.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p, c_wchar_p

assert sys.platform == "win32"

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)

_ConsoleHandler = ctypes.WINFUNCTYPE(c_int, c_uint32)

_CLOSING = {2: "CTRL_CLOSE_EVENT", 5: "CTRL_LOGOFF_EVENT", 6: "CTRL_SHUTDOWN_EVENT"}

_HELD_S = 60.0
"""Longer than Windows waits for a handler of a closing event."""

_kept: list[object] = []
"""Handlers for as long as the process lives: Windows may be inside one when it is taken off."""


def _must(answer: int) -> int:
    if not answer:
        raise ctypes.WinError(ctypes.get_last_error())
    return answer


_kernel32.SetConsoleCtrlHandler.argtypes = (c_void_p, c_int)
_kernel32.SetConsoleCtrlHandler.restype = c_int


def _console_handler(handle: Callable[[int], bool]) -> c_void_p:
    function = _ConsoleHandler(handle)
    _kept.append(function)
    return ctypes.cast(function, c_void_p)


@contextmanager
def closing_to(ask: Callable[[str], None]) -> Iterator[None]:
    """Have a closed console, a log-off and a shutdown call `ask` with their name.

    Windows calls in a thread of its own and ends the process when the call returns, or after 5 s.
    So it does not return: the process has these seconds to end by itself. A log-off and a shutdown
    are told only to programs that have not loaded user32.dll; the others are simply ended.
    """

    def handle(event: int) -> bool:
        if event not in _CLOSING:
            return False  # Ctrl-C and Ctrl-Break are signals to Python
        ask(_CLOSING[event])
        time.sleep(_HELD_S)
        return True

    # The one that was put in last is called first: before Python's own, which would return at once.
    handler = _console_handler(handle)
    installed = _kernel32.SetConsoleCtrlHandler(handler, 1)
    try:
        yield
    finally:
        if installed:
            _kernel32.SetConsoleCtrlHandler(handler, 0)


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Ignore Ctrl-C, and have children that begin in here ignore it for good."""
    _kernel32.SetConsoleCtrlHandler(None, 1)
    try:
        yield
    finally:
        _kernel32.SetConsoleCtrlHandler(None, 0)


def leave_console_events_to_parent() -> None:
    """In a child: no console event ends it while its parent still saves its state."""

    def handle(event: int) -> bool:
        if event in _CLOSING:
            time.sleep(_HELD_S)
        return True

    _kernel32.SetConsoleCtrlHandler(_console_handler(handle), 1)


class _BasicLimits(ctypes.Structure):
    """JOBOBJECT_BASIC_LIMIT_INFORMATION"""

    _fields_ = (
        ("PerProcessUserTimeLimit", c_int64),
        ("PerJobUserTimeLimit", c_int64),
        ("LimitFlags", c_uint32),
        ("MinimumWorkingSetSize", c_size_t),
        ("MaximumWorkingSetSize", c_size_t),
        ("ActiveProcessLimit", c_uint32),
        ("Affinity", c_size_t),
        ("PriorityClass", c_uint32),
        ("SchedulingClass", c_uint32),
    )


class _ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION"""

    _fields_ = (
        ("BasicLimitInformation", _BasicLimits),
        ("IoInfo", c_uint64 * 6),
        ("ProcessMemoryLimit", c_size_t),
        ("JobMemoryLimit", c_size_t),
        ("PeakProcessMemoryUsed", c_size_t),
        ("PeakJobMemoryUsed", c_size_t),
    )


_EXTENDED_LIMITS = 9
_KILL_ON_JOB_CLOSE = 0x2000
_PROCESS_TERMINATE, _PROCESS_SET_QUOTA = 0x0001, 0x0100

_kernel32.CreateJobObjectW.argtypes = (c_void_p, c_wchar_p)
_kernel32.CreateJobObjectW.restype = c_void_p
_kernel32.SetInformationJobObject.argtypes = (c_void_p, c_int, c_void_p, c_uint32)
_kernel32.SetInformationJobObject.restype = c_int
_kernel32.AssignProcessToJobObject.argtypes = (c_void_p, c_void_p)
_kernel32.AssignProcessToJobObject.restype = c_int
_kernel32.OpenProcess.argtypes = (c_uint32, c_int, c_uint32)
_kernel32.OpenProcess.restype = c_void_p
_kernel32.CloseHandle.argtypes = (c_void_p,)
_kernel32.CloseHandle.restype = c_int


class Job:
    """A job object whose processes end with the process that holds it.

    Raises:
        OSError: Windows refuses.
    """

    def __init__(self) -> None:
        self._handle: int | None = _must(_kernel32.CreateJobObjectW(None, None))
        limits = _ExtendedLimits()
        limits.BasicLimitInformation.LimitFlags = _KILL_ON_JOB_CLOSE
        size = ctypes.sizeof(limits)
        _must(
            _kernel32.SetInformationJobObject(
                self._handle, _EXTENDED_LIMITS, ctypes.byref(limits), size
            )
        )

    def add(self, pid: int) -> None:
        """Put a process in. What it begins from now on belongs to the job too.

        Raises:
            OSError: there is none of this number, or Windows refuses.
        """
        process = _must(_kernel32.OpenProcess(_PROCESS_TERMINATE | _PROCESS_SET_QUOTA, 0, pid))
        try:
            _must(_kernel32.AssignProcessToJobObject(self._handle, process))
        finally:
            _kernel32.CloseHandle(process)

    def close(self) -> None:
        """End the processes in it."""
        if self._handle is not None:
            _kernel32.CloseHandle(self._handle)
            self._handle = None
