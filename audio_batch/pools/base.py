"""What every pool offers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from audio_batch.outcome import Outcome
from audio_batch.pipeline import Job

Work = Callable[[Job], Outcome]
"""The pipeline with its context bound; never raises."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A job has ended. `worker` is the name of the thread that ran it."""

    job: Job
    outcome: Outcome
    worker: str


class Pool(Protocol):
    """Runs jobs and calls back. The caller submits no more than `workers` at a time."""

    workers: int

    def submit(
        self,
        job: Job,
        *,
        started: Callable[[Job, str], None],
        finished: Callable[[Finished], None],
    ) -> None:
        """Run a job; both callbacks run in the worker and must only hand on what they get."""
        ...

    def close(self) -> None:
        """Let running jobs end, then release the workers."""
        ...
