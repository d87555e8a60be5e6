"""Worker threads of this process. They live for the whole run: models keep state per thread."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from audio_batch.engines.heap import give_back
from audio_batch.errors import ErrorKind
from audio_batch.outcome import Outcome, State
from audio_batch.pipeline import Job
from audio_batch.pools.base import Begun, Finished, Work

_log = logging.getLogger("audio_batch.run")

_LONG_S = 1800.0
"""The samples of a longer recording (115 MB) are not kept for the next one."""


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    job: Job
    started: Begun
    finished: Callable[[Finished], None]


class ThreadPool:
    """See `Pool`. Threads are named Worker-1, Worker-2, … from the number `first` on.

    `queued` jobs more than there are threads are taken, and wait for one.

    A thread cannot be ended from outside. That of a job which is given up is replaced, and ends by
    itself when native code lets go of it; until then the process cannot end in an orderly way.
    """

    isolated = False

    def __init__(self, work: Work, workers: int, *, first: int = 1, queued: int = 0) -> None:
        self.workers = workers + queued
        self._most_threads = workers
        self._work = work
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._numbers = itertools.count(first)
        self._guard = threading.Lock()
        self._running: dict[int, _Task] = {}
        self._given_up: set[int] = set()
        self._threads: list[threading.Thread] = []
        self._waiting = 0
        self._ended = 0

    def _begin(self) -> threading.Thread:
        # Daemons: one that hangs must not keep the interpreter from ending.
        name = f"Worker-{next(self._numbers)}"
        thread = threading.Thread(target=self._serve, name=name, daemon=True)
        thread.start()
        return thread

    def _serve(self) -> None:
        me = threading.get_ident()
        worker = threading.current_thread().name
        while (task := self._tasks.get()) is not None:
            with self._guard:
                self._waiting -= 1
                self._running[me] = task
            task.started(task.job, worker)
            outcome = self._outcome(task.job)
            with self._guard:
                del self._running[me]
                if me in self._given_up:
                    self._given_up.remove(me)
                    self._ended += 1
                    return
            task.finished(Finished(task.job, outcome, worker))

    def _outcome(self, job: Job) -> Outcome:
        """What the work answers; whatever a library raises must not end the thread unheard."""
        try:
            outcome = self._work(job)
            if (outcome.duration_s or 0.0) > _LONG_S:
                give_back()
            return outcome
        except BaseException as error:
            text = f"Unexpected {type(error).__name__}. Please report it; see the log file."
            _log.error("unexpected end of %s", job.asset.id, exc_info=error)
            return Outcome(
                job.asset.id,
                State.FAILED,
                job.fingerprint,
                job.device,
                error_kind=ErrorKind.INTERNAL,
                error_text=text,
            )

    def submit(self, job: Job, *, started: Begun, finished: Callable[[Finished], None]) -> None:
        """See `Pool.submit`."""
        with self._guard:
            # A thread is begun when it is needed: most of those for reading ahead never are.
            self._waiting += 1
            busy = len(self._running) - len(self._given_up)
            alive = len(self._threads) - len(self._given_up) - self._ended
            if self._waiting + busy > alive and alive < self._most_threads:
                self._threads.append(self._begin())
        self._tasks.put(_Task(job, started, finished))

    def give_up(self, job: Job) -> tuple[Job, ...] | None:
        """See `Pool.give_up`; nothing else ends."""
        with self._guard:
            for thread, task in self._running.items():
                if task.job is job and thread not in self._given_up:
                    self._given_up.add(thread)
                    self._threads.append(self._begin())
                    return ()
        return None

    def abandon(self, job: Job) -> None:
        """See `Pool.abandon`."""

    def close(self) -> bool:
        """See `Pool.close`."""
        with self._guard:
            hanging = set(self._given_up)
        waited = [thread for thread in self._threads if thread.ident not in hanging]
        for _ in waited:
            self._tasks.put(None)
        for thread in waited:
            thread.join()
        return not hanging

    def drop(self) -> bool:
        """See `Pool.drop`: threads at work are left behind."""
        for _ in self._threads:
            self._tasks.put(None)
        with self._guard:
            return not self._running
