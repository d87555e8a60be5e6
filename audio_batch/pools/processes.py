"""A child process for each device: its crash is its own, and it can be ended when it hangs.

The worker threads live in the child and share its models; the parent has one thread a child, which
reads what it says. `multiprocessing` is used as it is, by spawn everywhere. The pools built on it
(concurrent.futures, loky, pebble) run one task at a time in a process and load models in each, or
fail every task of every process when one dies.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import pickle
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from audio_batch.errors import DeviceError, WorkerDied
from audio_batch.events import AssetProgress
from audio_batch.loading import Place
from audio_batch.outcome import Published, Stage, StageRecord
from audio_batch.pipeline import Job
from audio_batch.pools.base import Begun, Death, Finished
from audio_batch.pools.hosts import PATIENCE_S, Handle, Host
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

_KEPT_LOGS = 50

_UNNAMEABLE = re.compile(r"[^A-Za-z0-9._-]")
"""What of a device's id is not for the name of a file."""

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
    handle: Handle
    stderr: Path
    loaded: concurrent.futures.Future[Sequence[str]]
    reader: threading.Thread | None = None
    outbox: queue.SimpleQueue[FromParent | None] = field(default_factory=queue.SimpleQueue)
    tasks: dict[str, _Task] = field(default_factory=dict)
    expected: bool = False
    """Whether its end is our doing."""
    death: Death | None = None


class ProcessPool:
    """See `Pool`. A device's process is begun by `begin`, which also begins it anew.

    Args:
        host: where the processes are begun.
        place_of: where the models of a device are to be loaded, asked each time.
        workers: how many jobs it takes at a time, asked each time.
        logs: the folder for what the processes write to stderr.
        died: called in a thread of the pool when a process has ended by itself.
    """

    isolated = True

    def __init__(
        self,
        recipe: Recipe,
        *,
        host: Host,
        place_of: Callable[[str], Place],
        workers: Callable[[], int],
        logs: Path,
        tell: Tell,
        died: Callable[[Death], None],
    ) -> None:
        self._workers = workers
        self._recipe = recipe
        self._host = host
        self._place_of = place_of
        self._logs = logs
        self._tell = tell
        self._died = died
        self._lock = threading.Lock()
        self._children: dict[str, _Child] = {}
        self._deaths = 0
        self._first_worker: dict[str, int] = {}
        self._next_worker = 1

    # -- processes --------------------------------------------------------------------------------

    def begin(self, device: str, needed: Set[Stage]) -> None:
        """Begin the device's process, or end it and begin it anew; main thread only.

        Raises:
            DeviceError: the system refuses another process, or the device is gone.
        """
        previous = self._children.pop(device, None)
        if previous is not None:
            self._kill(previous)
        place = self._place_of(device)
        if device not in self._first_worker:
            self._first_worker[device] = self._next_worker
            self._next_worker += place.slots + place.ahead
        stderr = self._logs / f"{_UNNAMEABLE.sub('-', device)}.log"
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
            handle = self._host.begin(device, setup)
        except OSError as error:
            raise DeviceError(f"No process can be begun for {device}: {error}.") from error
        child = _Child(device, handle, stderr, concurrent.futures.Future())
        self._children[device] = child
        name = f"Reader of {device}"
        child.reader = threading.Thread(target=self._read, args=(child,), name=name, daemon=True)
        child.reader.start()
        name = f"Writer to {device}"
        threading.Thread(target=self._write, args=(child,), name=name, daemon=True).start()

    def load(self, device: str, needed: Set[Stage]) -> Sequence[str]:  # noqa: ARG002
        """Wait until the process has loaded its models; what to warn of. Any thread.

        Raises:
            DeviceError, SetupError, UsageError: it cannot, or has ended meanwhile.
        """
        return self._children[device].loaded.result()

    def _kill(self, child: _Child) -> None:
        with self._lock:
            child.expected = True
        child.handle.kill()
        child.handle.wait(PATIENCE_S)

    def _write(self, child: _Child) -> None:
        """The life of a child's writer; a child that hangs reads nothing, and nobody waits."""
        while (message := child.outbox.get()) is not None:
            try:
                child.handle.send(message)
            except (OSError, ValueError):
                return  # it has died: its reader tells of it

    # -- what a child says ------------------------------------------------------------------------

    def _read(self, child: _Child) -> None:
        """The life of a child's reader."""
        try:
            while True:
                self._take(child, child.handle.receive())
        except (EOFError, OSError, pickle.UnpicklingError):
            pass
        except Exception:
            # A message that cannot be understood: the child is not what it should be.
            _log.exception("The process of %s is ended", child.device)
        child.outbox.put(None)
        if not child.handle.wait(PATIENCE_S):
            child.handle.kill()
            child.handle.wait(PATIENCE_S)
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
        ending = child.handle.ending()
        how = ending.how
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
                running=tuple(t.job for t in tasks if t.begun and not ending.lost),
                # What went with its machine is as if nobody had taken it up.
                waiting=tuple(t.job for t in tasks if not t.begun or ending.lost),
                from_outside=ending.from_outside,
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

    @property
    def workers(self) -> int:
        """See `Pool.workers`."""
        return self._workers()

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
        deadline_s = time.monotonic() + PATIENCE_S
        leaving = [child for child in self._children.values() if child.loaded.done()]
        for child in leaving:
            child.outbox.put(Leave())
        for child in leaving:
            child.handle.wait(max(0.0, deadline_s - time.monotonic()))
        return self.drop()

    def drop(self) -> bool:
        """See `Pool.drop`: nothing is left behind, processes can be killed."""
        for child in self._children.values():
            with self._lock:
                child.expected = True
            child.handle.kill()
        for child in self._children.values():
            child.handle.wait(PATIENCE_S)
            child.outbox.put(None)
            if child.reader is not None:
                child.reader.join(PATIENCE_S)
        self._host.close()
        return True
