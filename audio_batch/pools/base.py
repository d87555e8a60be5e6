"""What every pool offers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from audio_batch.outcome import Outcome
from audio_batch.pipeline import Job

Work = Callable[[Job], Outcome]
"""The pipeline with its context bound; never raises."""

Begun = Callable[[Job, str], None]
"""Called with the job and the name of the thread that has taken it up."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A job has ended. `worker` is the name of the thread that ran it."""

    job: Job
    outcome: Outcome
    worker: str


@dataclass(frozen=True, slots=True)
class Death:
    """The process of a device has ended by itself, and with it what it had at work.

    `how` says it in a phrase ("SIGSEGV"), `from_outside` whether somebody killed it who was not the
    kernel. `evidence` is the telling line of what it wrote to stderr, all of which is kept in
    `log`. One of the jobs that were `running` may be what ended it; those `waiting` had not been
    taken up.
    """

    device: str
    how: str
    evidence: str
    log: Path | None
    running: tuple[Job, ...] = ()
    waiting: tuple[Job, ...] = ()
    from_outside: bool = False


class Pool(Protocol):
    """Runs jobs and calls back. The caller submits no more than `workers` at a time."""

    @property
    def workers(self) -> int:
        """How many jobs it takes at a time; more once a device has joined."""
        ...

    isolated: bool
    """Whether the jobs of a device are beyond the reach of the others' crashes."""

    def submit(self, job: Job, *, started: Begun, finished: Callable[[Finished], None]) -> None:
        """Run a job; both callbacks run in the worker and must only hand on what they get."""
        ...

    def give_up(self, job: Job) -> tuple[Job, ...] | None:
        """Stop waiting for a job: its `finished` is not called any more, its place is free.

        Returns:
            The other jobs that this ended, which did nothing wrong; None where the job itself had
            ended already, and nothing was done.
        """
        ...

    def abandon(self, job: Job) -> None:
        """Let a job end as soon as it can: its outcome is of no use, but its `finished` is called.

        A thread of this process asks `Tell.given_up` by itself.
        """
        ...

    def close(self) -> bool:
        """Let running jobs end, then release the workers.

        Returns:
            Whether all is released; False while a job that was given up holds a thread.
        """
        ...

    def drop(self) -> bool:
        """Release the workers without waiting for what runs; see `close`."""
        ...
