"""The reference pool: each job runs to its end inside `submit`, in the caller's own thread."""

from __future__ import annotations

from collections.abc import Callable

from audio_batch.pipeline import Job
from audio_batch.pools.base import Begun, Finished, Work


class SerialPool:
    """See `Pool`."""

    workers = 1
    isolated = False

    def __init__(self, work: Work) -> None:
        self._work = work

    def submit(self, job: Job, *, started: Begun, finished: Callable[[Finished], None]) -> None:
        """See `Pool.submit`."""
        started(job, "Worker-1")
        finished(Finished(job, self._work(job), "Worker-1"))

    def give_up(self, job: Job) -> None:
        """Nothing: no job runs outside `submit`."""

    def abandon(self, job: Job) -> None:
        """See `Pool.abandon`: there is never one at work."""

    def close(self) -> bool:
        """Nothing to release."""
        return True

    drop = close
