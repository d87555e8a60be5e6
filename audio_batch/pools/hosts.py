"""Where the child process of a device is begun: on this machine, or (`ray_pool`) on another one.

`pools.processes` holds what is the same for both: what the parent and its children say to each
other, and what a death means.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol

from audio_batch.lifetime import ChildKeeper, shielded
from audio_batch.pools.child import serve
from audio_batch.pools.messages import ChildSetup, FromChild, FromParent

PATIENCE_S = 10.0
"""For a process that has closed its pipe, or was killed, to be gone."""

_SIGKILL = 9
"""Windows has no name for it, and no process that ends so."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a child has ended.

    Args:
        how: in a phrase, such as "SIGSEGV".
        from_outside: somebody killed it who was not the kernel for lack of memory.
        lost: its machine went away, and nothing that ran there had any part in it.
    """

    how: str
    from_outside: bool = False
    lost: bool = False


class Handle(Protocol):
    """A child that was begun. `send` and `receive` have a thread each, the others may be any's."""

    def send(self, message: FromParent) -> None:
        """Hand it on. Raises OSError or ValueError where nobody reads any more."""
        ...

    def receive(self) -> FromChild:
        """Wait for what it says next.

        Raises:
            EOFError, OSError, pickle.UnpicklingError: it has ended.
        """
        ...

    def kill(self) -> None:
        """End it now; a second call does nothing."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended; whether it has."""
        ...

    def ending(self) -> Ending:
        """How it has ended; to be asked after that."""
        ...


class Host(Protocol):
    """Begins children."""

    def begin(self, device: str, setup: ChildSetup) -> Handle:
        """Begin the child of a device, whose earlier one has ended; main thread only.

        Raises:
            OSError: the system refuses.
            DeviceError: the device is not to be had any more.
        """
        ...

    def close(self) -> None:
        """End whatever still runs."""
        ...


class LocalHost:
    """Children of this process, by spawn everywhere.

    Args:
        home: a folder to work in, should the current one have been removed.
        entry: what runs in the child.
    """

    def __init__(self, home: Path, entry: Callable[[Connection, ChildSetup], None] = serve) -> None:
        self._home = home
        self._entry = entry
        self._keeper = ChildKeeper()

    def begin(self, device: str, setup: ChildSetup) -> LocalHandle:
        """See `Host.begin`. Linux ends a child with the thread that began it."""
        try:
            Path.cwd()
        except FileNotFoundError:  # removed meanwhile; a child could not begin in it
            os.chdir(self._home)
        if sys.platform != "win32":
            # Begun with the first child, it would open the signals again that `shielded` holds.
            resource_tracker.ensure_running()
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        process = spawn.Process(
            target=self._entry, args=(theirs, setup), name=f"audio-batch {device}", daemon=True
        )
        oom_kills = _oom_kills()
        try:
            with shielded():
                process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._keeper.adopt(process.pid or 0)
        return LocalHandle(process, ours, oom_kills)

    def close(self) -> None:
        """See `Host.close`."""
        self._keeper.close()


class LocalHandle:
    """See `Handle`."""

    def __init__(
        self, process: SpawnProcess, connection: Connection, oom_kills: int | None
    ) -> None:
        self._process = process
        self._connection = connection
        self._oom_kills = oom_kills

    def send(self, message: FromParent) -> None:
        """See `Handle.send`."""
        self.send_bytes(pickle.dumps(message))

    def send_bytes(self, data: bytes) -> None:
        """As `send`, of a message that was pickled elsewhere."""
        self._connection.send_bytes(data)

    def receive(self) -> FromChild:
        """See `Handle.receive`."""
        message: FromChild = self._connection.recv()
        return message

    def receive_bytes(self) -> bytes:
        """As `receive`, of a message that is read elsewhere."""
        return self._connection.recv_bytes()

    def kill(self) -> None:
        """See `Handle.kill`."""
        self._process.kill()

    def wait(self, timeout_s: float) -> bool:
        """See `Handle.wait`."""
        self._process.join(timeout_s)
        return not self._process.is_alive()

    def ending(self) -> Ending:
        """See `Handle.ending`."""
        code = self._process.exitcode
        from_outside = (
            code == -_SIGKILL and self._oom_kills is not None and self._oom_kills == _oom_kills()
        )
        return Ending(_how(code, from_outside=from_outside), from_outside)


_WINDOWS_CRASHES = {
    0xC0000005: "access violation",
    0xC0000017: "no memory",
    0xC00000FD: "stack overflow",
    0xC0000374: "heap corruption",
    0xC0000409: "stack buffer overrun or abort",
}
"""NTSTATUS values by which Windows ends a process (ntstatus.h)."""


def _oom_kills() -> int | None:
    """How often the kernel has killed for lack of memory, in whatever container; None: unknown.

    It counts before it kills (mm/oom_kill.c): what ended by SIGKILL without it was ended by
    somebody else.
    """
    try:
        text = Path("/proc/vmstat").read_text("ascii")
    except (OSError, ValueError):
        return None
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def _how(exit_code: int | None, *, from_outside: bool) -> str:
    """How a process ended, in a phrase."""
    if from_outside:
        return "SIGKILL, not by the kernel for lack of memory"
    if exit_code is None:
        return "it does not answer"
    if exit_code < 0:
        try:
            name = signal.Signals(-exit_code).name
        except ValueError:
            name = f"signal {-exit_code}"
        return f"{name}, as for lack of memory" if name == "SIGKILL" else name
    crash = _WINDOWS_CRASHES.get(exit_code & 0xFFFFFFFF)
    return f"exit code {exit_code:#x}, {crash}" if crash else f"exit code {exit_code}"
