"""A child process for each device: its crash is its own, and it can be ended when it hangs.

The worker threads live in the child and share its models; the parent has one thread a child, which
reads what it says. `multiprocessing` is used as it is, by spawn everywhere. The pools built on it
(concurrent.futures, loky, pebble) run one task at a time in a process and load models in each, or
fail every task of every process when one dies.
"""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import pickle
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from audio_batch.errors import DeviceError, WorkerDied
from audio_batch.events import AssetProgress
from audio_batch.lifetime import ChildKeeper, shielded
from audio_batch.loading import Place
from audio_batch.outcome import Published, Stage, StageRecord
from audio_batch.pipeline import Job
from audio_batch.pools.base import Begun, Death, Finished
from audio_batch.pools.child import serve
from audio_batch.pools.messages import (
    Abandon,
    ChildSetup,
    Do,
    Ended,
    FromChild,
    FromParent,
    Leave,
    Loaded,
    Logged,
    Refused,
    Told,
)
from audio_batch.pools.messages import (
    Begun as BegunMessage,
)
from audio_batch.tell import Tell
from audio_batch.text import for_terminal, kept_secrets, redact
from audio_batch.workplace import Recipe

_PATIENCE_S = 10.0
"""For a process that has closed its pipe, or was killed, to be gone."""

_KEPT_LOGS = 50

_SIGKILL = 9
"""Windows has no name for it, and no process that ends so."""

_log = logging.getLogger("audio_batch.run")


@dataclass(slots=True, eq=False)
class _Task:
    job: Job
    started: Begun
    finished: Callable[[Finished], None]
    begun: bool = False


@dataclass(slots=True, eq=False)
class _Child:
    """A process and what it has at work. `tasks` and `expected` are guarded by the pool's lock."""

    device: str
    process: SpawnProcess
    connection: Connection
    stderr: Path
    loaded: concurrent.futures.Future[Sequence[str]]
    reader: threading.Thread | None = None
    outbox: queue.SimpleQueue[FromParent | None] = field(default_factory=queue.SimpleQueue)
    tasks: dict[str, _Task] = field(default_factory=dict)
    oom_kills: int | None = None
    """How often the kernel had killed for lack of memory when the process began."""
    expected: bool = False
    """Whether its end is our doing."""
    death: Death | None = None


class ProcessPool:
    """See `Pool`. A device's process is begun by `begin`, which also begins it anew.

    Args:
        place_of: where the models of a device are to be loaded, asked each time.
        logs: the folder for what the processes write to stderr.
        died: called in a thread of the pool when a process has ended by itself.
    """

    isolated = True

    def __init__(
        self,
        recipe: Recipe,
        *,
        place_of: Callable[[str], Place],
        workers: int,
        logs: Path,
        tell: Tell,
        died: Callable[[Death], None],
    ) -> None:
        self.workers = workers
        self._recipe = recipe
        self._place_of = place_of
        self._logs = logs
        self._tell = tell
        self._died = died
        self._lock = threading.Lock()
        self._children: dict[str, _Child] = {}
        self._keeper = ChildKeeper()
        self._deaths = 0
        self._first_worker: dict[str, int] = {}
        self._next_worker = 1

    # -- processes --------------------------------------------------------------------------------

    def begin(self, device: str, needed: Set[Stage]) -> None:
        """Begin the device's process, or end it and begin it anew; main thread only.

        Linux ends a child with the thread that began it.

        Raises:
            DeviceError: the system refuses another process.
        """
        previous = self._children.pop(device, None)
        if previous is not None:
            self._kill(previous)
        place = self._place_of(device)
        if device not in self._first_worker:
            self._first_worker[device] = self._next_worker
            self._next_worker += place.slots + place.ahead
        stderr = self._logs / f"{device.replace(':', '-')}.log"
        setup = ChildSetup(
            parent_pid=os.getpid(),
            recipe=self._recipe,
            place=place,
            needed=tuple(needed),
            stderr=stderr,
            first_worker=self._first_worker[device],
            secrets=kept_secrets(),
        )
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
            process, ours = self._spawn(device, setup)
        except OSError as error:
            raise DeviceError(f"No process can be begun for {device}: {error}.") from error
        child = _Child(
            device, process, ours, stderr, concurrent.futures.Future(), oom_kills=_oom_kills()
        )
        self._children[device] = child
        name = f"Reader of {device}"
        child.reader = threading.Thread(target=self._read, args=(child,), name=name, daemon=True)
        child.reader.start()
        name = f"Writer to {device}"
        threading.Thread(target=self._write, args=(child,), name=name, daemon=True).start()

    def _spawn(self, device: str, setup: ChildSetup) -> tuple[SpawnProcess, Connection]:
        """Begin the process itself; our end of its pipe.

        Raises:
            OSError: the system refuses.
        """
        try:
            Path.cwd()
        except FileNotFoundError:  # removed meanwhile; a child could not begin in it
            os.chdir(self._recipe.root)
        if sys.platform != "win32":
            # Begun with the first child, it would open the signals again that `shielded` holds.
            resource_tracker.ensure_running()
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        process = spawn.Process(
            target=serve, args=(theirs, setup), name=f"audio-batch {device}", daemon=True
        )
        try:
            with shielded():
                process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._keeper.adopt(process.pid or 0)
        return process, ours

    def load(self, device: str, needed: Set[Stage]) -> Sequence[str]:  # noqa: ARG002
        """Wait until the process has loaded its models; what to warn of. Any thread.

        Raises:
            DeviceError, SetupError, UsageError: it cannot, or has ended meanwhile.
        """
        return self._children[device].loaded.result()

    def _kill(self, child: _Child) -> None:
        with self._lock:
            child.expected = True
        child.process.kill()
        child.process.join(_PATIENCE_S)

    def _write(self, child: _Child) -> None:
        """The life of a child's writer; a child that hangs reads nothing, and nobody waits."""
        while (message := child.outbox.get()) is not None:
            try:
                child.connection.send(message)
            except (OSError, ValueError):
                return  # it has died: its reader tells of it

    # -- what a child says ------------------------------------------------------------------------

    def _read(self, child: _Child) -> None:
        """The life of a child's reader."""
        try:
            while True:
                self._take(child, child.connection.recv())
        except (EOFError, OSError, pickle.UnpicklingError):
            pass
        except Exception:
            # A message that cannot be understood: the child is not what it should be.
            _log.exception("The process of %s is ended", child.device)
        child.outbox.put(None)
        child.process.join(_PATIENCE_S)
        if child.process.is_alive():
            child.process.kill()
            child.process.join(_PATIENCE_S)
        self._bury(child)

    def _take(self, child: _Child, message: FromChild) -> None:
        match message:
            case Told(record):
                self._hand_on(record)
            case BegunMessage(key, worker):
                with self._lock:
                    task = child.tasks.get(key)
                if task is not None:
                    task.begun = True
                    task.started(task.job, worker)
            case Ended(key, outcome, worker):
                with self._lock:
                    task = child.tasks.pop(key, None)
                if task is not None:
                    task.finished(Finished(task.job, outcome, worker))
            case Logged(fields):
                line = logging.makeLogRecord(dict(fields))
                logging.getLogger(line.name).handle(line)
            case Loaded(warnings):
                child.loaded.set_result(warnings)
            case Refused():
                with self._lock:
                    child.expected = True
                child.loaded.set_exception(message.error())

    def _hand_on(self, record: AssetProgress | StageRecord | Published) -> None:
        if isinstance(record, StageRecord):
            self._tell.stage_done(record)
        elif isinstance(record, Published):
            self._tell.published(record)
        else:
            self._tell.progress(record)

    def _bury(self, child: _Child) -> None:
        from_outside = (
            child.process.exitcode == -_SIGKILL
            and child.oom_kills is not None
            and child.oom_kills == _oom_kills()
        )
        how = _how(child.process.exitcode, from_outside=from_outside)
        with self._lock:
            expected = child.expected
        evidence, log = ("", None) if expected else self._evidence(child.stderr)
        with suppress(OSError):  # what is worth keeping is kept, without secrets
            if self._children.get(child.device) is child:
                child.stderr.unlink(missing_ok=True)
        with self._lock:
            tasks = list(child.tasks.values())
            child.tasks.clear()
            child.death = death = Death(
                child.device,
                how,
                evidence,
                log,
                running=tuple(task.job for task in tasks if task.begun),
                waiting=tuple(task.job for task in tasks if not task.begun),
                from_outside=from_outside,
            )
        if not child.loaded.done():
            told = f": {how} {f'({evidence})' if evidence else ''}".rstrip()
            child.loaded.set_exception(
                WorkerDied(
                    f"The process of {child.device} ended before its models were loaded{told}."
                )
            )
        elif not expected:
            self._died(death)

    def _evidence(self, stderr: Path) -> tuple[str, Path | None]:
        """The telling line of what a dead process wrote, and where all of it is kept."""
        with self._lock:
            self._deaths += 1
            number = self._deaths
        # Texts of earlier nights name their logs: only the oldest of them make room.
        name = f"{stderr.stem}.{time.strftime('%Y%m%d-%H%M%S')}.death-{number}.log"
        try:
            text = redact(stderr.read_bytes()[-65536:].decode("utf-8", "replace"))
            if not text.strip():
                return "", None
            log = stderr.with_name(name)
            log.write_text(text, encoding="utf-8")
            kept = sorted(
                stderr.parent.glob("*.death-*.log"), key=lambda path: path.stat().st_mtime
            )
            for old in kept[:-_KEPT_LOGS]:
                old.unlink()
        except OSError:
            return "", None
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        fatal = next((line for line in lines if line.startswith("Fatal Python error")), None)
        # A native library's last words come before faulthandler's, a traceback's come last.
        before = lines[lines.index(fatal) - 1] if fatal and lines.index(fatal) else None
        return for_terminal((before or fatal or lines[-1])[:300]), log

    # -- Pool -------------------------------------------------------------------------------------

    def submit(self, job: Job, *, started: Begun, finished: Callable[[Finished], None]) -> None:
        """See `Pool.submit`; the job goes to its device's process."""
        child = self._children[job.device]
        with self._lock:
            death = child.death
            if death is None:
                child.tasks[job.key] = _Task(job, started, finished)
        if death is not None:
            self._died(replace(death, running=(), waiting=(job,)))
            return
        child.outbox.put(Do(job))

    def give_up(self, job: Job) -> tuple[Job, ...] | None:
        """See `Pool.give_up`: the device's process is killed; `begin` begins it anew."""
        child = self._children[job.device]
        with self._lock:
            task = child.tasks.get(job.key)
            if task is None or task.job is not job:
                return None
            others = tuple(t.job for t in child.tasks.values() if t.job is not job)
            child.tasks.clear()
            child.expected = True
        self._kill(child)
        return others

    def abandon(self, job: Job) -> None:
        """See `Pool.abandon`."""
        self._children[job.device].outbox.put(Abandon(job.serial))

    def close(self) -> bool:
        """See `Pool.close`."""
        with self._lock:
            for child in self._children.values():
                child.expected = True
        deadline_s = time.monotonic() + _PATIENCE_S
        leaving = [child for child in self._children.values() if child.loaded.done()]
        for child in leaving:
            child.outbox.put(Leave())
        for child in leaving:
            child.process.join(max(0.0, deadline_s - time.monotonic()))
        return self.drop()

    def drop(self) -> bool:
        """See `Pool.drop`: nothing is left behind, processes can be killed."""
        for child in self._children.values():
            with self._lock:
                child.expected = True
            child.process.kill()
        for child in self._children.values():
            child.process.join(_PATIENCE_S)
            child.outbox.put(None)
            if child.reader is not None:
                child.reader.join(_PATIENCE_S)
        self._keeper.close()
        return True


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
