"""What becomes of an asset when a job at it has ended: done, failed, again later, again elsewhere.

end ── nobody needs it (another device has done the same) → lose
    └─ commit ── the night's fault: the asset goes back, uncounted
              ├─ its store is away → Holds, uncounted
              ├─ a part → partings, and after the last one the whole asset
              ├─ it may pass → again after a growing delay
              └─ it stands → journal.finish → count, learn
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from audio_batch import events
from audio_batch.backlog import Backlog
from audio_batch.control import Pause, StopControl
from audio_batch.crew import Crew
from audio_batch.dispatch import Dispatch
from audio_batch.errors import Away, ErrorKind, SetupError
from audio_batch.flights import Flight, Flights, carried_on, unseen, written_over
from audio_batch.guards import Guards
from audio_batch.holds import Holds
from audio_batch.journal import Journal
from audio_batch.mishaps import Mishaps
from audio_batch.options import RunOptions
from audio_batch.outcome import Outcome, RunResult, Stage, State
from audio_batch.partings import Partings
from audio_batch.pipeline import Job, source_identity
from audio_batch.plan import Planned, due_for_redo, redo_of, stands_all_the_same
from audio_batch.pools import Pool
from audio_batch.watchdog import Expectation

MAX_RETRY_DELAY_S = 300.0

_HEARING = frozenset(stage.value for stage in Stage)


@dataclass(slots=True)
class Endings:
    """See the module's docstring. The runner's thread only; everything in it is the runner's.

    `mishaps` and `dispatcher` are made with what is here, and follow.
    """

    options: RunOptions
    journal: Journal
    guards: Guards
    backlog: Backlog
    flights: Flights
    partings: Partings
    pool: Pool
    crew: Crew
    expectation: Expectation
    tries: Counter[str]
    positions: dict[str, int]
    given_up: set[int]
    pause: Pause
    stop: StopControl
    result: RunResult
    emit: Callable[[events.Event], None]
    now_s: Callable[[], float]
    holds: Holds = field(default_factory=Holds)
    litter: list[str] = field(default_factory=list)
    """Files below the state folder that nobody needs once what is done now is committed."""
    mishaps: Mishaps = field(init=False)
    dispatcher: Dispatch = field(init=False)

    def end(self, flight: Flight, outcome: Outcome, worker: str = "Main") -> None:
        """A job has ended, however."""
        others = self.flights.others(flight)
        if flight.abandoned or (others and outcome.state is not State.DONE):
            self.lose(flight)  # another device decides what becomes of the asset
            return
        self._remove(flight, outcome)
        if outcome.superseded:  # and whoever it was has died before telling
            self.backlog.put_back(unseen(flight.planned))
            self.holds.lost(flight.job.key, self.now_s())
            self.journal.finish(replace(outcome, state=State.INTERRUPTED), counts=False)
            return
        self._commit(flight, outcome, worker)
        for other in others:
            self.abandon(other)

    def tidy(self) -> None:
        """What was done is committed: remove what it was made of."""
        for path in self.litter:
            with contextlib.suppress(OSError):
                (self.journal.path.parent / path).unlink()
        self.litter.clear()

    def withdraw(self) -> None:
        """The run is to stop: what is not worth waiting for is put back, and is no attempt."""
        for flight in [f for f in self.flights.values() if self._is_futile(f)]:
            self.abandon(flight)
            if self.flights.others(flight):
                continue
            self.holds.lost(flight.job.key, self.now_s())
            self.backlog.put_back(flight.planned)
            if flight.job.part is None:
                self.journal.finish(flight.outcome(State.INTERRUPTED), counts=False)

    def _is_futile(self, flight: Flight) -> bool:
        """Whether a job has not begun, or waits for a store that may not answer for minutes."""
        if flight.abandoned:
            return False
        waits = flight.stage not in _HEARING and self.holds.is_tried(flight.job.key)
        return flight.queued or waits

    def abandon(self, flight: Flight) -> None:
        """Wait for it no longer, and let it end as soon as it can."""
        self.flights.abandon(flight)
        self.given_up.add(flight.job.serial)
        self.pool.abandon(flight.job)

    def lose(self, flight: Flight) -> None:
        """A job has ended that nobody needs."""
        self._remove(flight, flight.outcome(State.INTERRUPTED))
        job = flight.job
        self.holds.lost(job.key, self.now_s())
        self.emit(events.AssetDropped(job.asset.id, job.share, job.device))

    def _remove(self, flight: Flight, outcome: Outcome) -> None:
        """It is no longer at work: its slot is free, and the next one read ahead gets it."""
        now_s = self.now_s()
        done = outcome.state is State.DONE and not outcome.rendered_only
        if done:
            self.dispatcher.learn(flight, outcome, now_s)
        self.dispatcher.touch(flight.device.id, now_s)
        self.flights.remove(flight)
        self.guards.floor.ended(flight.job.key)
        flight.release()
        self.dispatcher.promote(flight.device.id, now_s)

    def interrupted(self, flight: Flight, outcome: Outcome, counts: bool) -> None:
        """A job has ended without an outcome of its own; its asset is in the backlog again."""
        self._remove(flight, outcome)
        self.holds.lost(flight.job.key, self.now_s())
        if flight.job.part is not None:
            return  # its asset is still at work
        self.journal.finish(outcome, counts=counts)
        if outcome.error_text:
            self._tell_finished(flight, outcome, "Main", again_in_s=0.0)

    def _commit(self, flight: Flight, outcome: Outcome, worker: str) -> None:
        job = flight.job
        planned = flight.planned
        if outcome.state is not State.DONE and not job.part:
            planned = written_over(carried_on(planned, outcome.stages), outcome.left)
        if outcome.error_kind is ErrorKind.DISK_FULL:
            self.backlog.put_back(planned)
            self._not_this_time(flight, outcome)
            raise SetupError(outcome.error_text or "The disk is full.")
        if outcome.reached:
            self.holds.reached(flight)
        if outcome.away is None:
            self.holds.ended(flight, outcome, self.now_s())
        elif self._held(flight, planned, outcome, outcome.away, worker):
            return
        if outcome.device_failed and self.mishaps.is_the_devices_fault(job):
            # Last in line: should it be the asset after all, the others have been done by then.
            self.backlog.add(planned)
            self._not_this_time(flight, outcome)
            self.mishaps.device_failed(flight, outcome.error_text or "it failed", guilty=True)
            self._tell_finished(flight, outcome, worker, again_in_s=0.0)
            return
        if outcome.error_kind is ErrorKind.OUT_OF_MEMORY and self.mishaps.eased(flight, outcome):
            self.backlog.put_back(planned)
            self.tries[job.key] -= 1
            self._not_this_time(flight, outcome)
            self._tell_finished(flight, outcome, worker, again_in_s=0.0)
            return
        delay_s = self._retry_delay_s(job, outcome)
        pending = delay_s is not None
        if job.part is not None:
            self._part_ended(flight, outcome, worker, delay_s)
            return
        spoilt = outcome.state in (State.FAILED, State.QUARANTINED)
        if planned.redo and spoilt and not pending:
            outcome = stands_all_the_same(outcome)
        # A run that is killed before the next attempt must find it still to be done.
        stands = replace(outcome, state=State.INTERRUPTED) if pending else outcome
        rendered = outcome.rendered_only and outcome.state is State.DONE
        self.journal.finish(stands, counts=not rendered, redo=planned.redo)
        if outcome.error_kind is ErrorKind.OUT_OF_MEMORY:
            self.mishaps.renew(job.device)
        if due_for_redo(planned, outcome, self.options) and not self.stop.requested.is_set():
            self.backlog.add(redo_of(carried_on(planned, outcome.stages)))
            self._tell_finished(flight, outcome, worker, again_in_s=0.0)
            return
        if delay_s is not None:
            if outcome.error_kind is ErrorKind.INPUT_CHANGED:
                source = source_identity(planned.asset.path)
                planned = replace(planned, source=source, kept={}, parts={})
            self.backlog.add_later(planned, delay_s)
        else:
            self._count(flight, outcome)
        if outcome.device_failed:
            self.mishaps.device_failed(flight, outcome.error_text or "it failed", guilty=False)
        self._tell_finished(flight, outcome, worker, again_in_s=delay_s)
        if outcome.state in (State.FAILED, State.INCOMPLETE) and not pending:
            self._after_failure()

    def _held(
        self, flight: Flight, planned: Planned, outcome: Outcome, away: Away, worker: str
    ) -> bool:
        """Whether an asset whose store is away waits for it; then no attempt counts."""
        if outcome.source is not None:
            planned = replace(planned, source=outcome.source)  # what is kept was made of it
        back = self.holds.failed(
            flight,
            planned,
            away,
            self.now_s(),
            last=self._retry_delay_s(flight.job, outcome) is None,
        )
        if back is None:
            return False
        if not flight.job.copy:
            self.tries[flight.job.key] -= 1
        self.tries.subtract(back)
        if any(back.values()):
            self.journal.take_back(back)
        self._not_this_time(flight, outcome)
        self._tell_finished(flight, outcome, worker, again_in_s=0.0, waits=True)
        return True

    def _not_this_time(self, flight: Flight, outcome: Outcome) -> None:
        """Journal that an attempt was broken off and does not count; a part's asset goes on."""
        if flight.job.part is None:
            self.journal.finish(replace(outcome, state=State.INTERRUPTED), counts=False)

    def _part_ended(
        self, flight: Flight, outcome: Outcome, worker: str, delay_s: float | None
    ) -> None:
        """Keep what was heard of a part; after the last one the asset itself is due."""
        for record in outcome.stages:
            self.journal.finish_stage(record)
        if delay_s is not None and outcome.error_kind is not ErrorKind.INPUT_CHANGED:
            self.backlog.add_later(flight.planned, delay_s)
        else:
            self.tries.pop(flight.job.key, None)
            suspect = outcome.error_kind in (ErrorKind.TIMEOUT, ErrorKind.WORKER_DIED)
            heard = outcome.stages[0] if outcome.state is State.DONE else None
            whole = self.partings.ended(flight.planned, heard, suspect=suspect)
            if whole is not None:
                self.backlog.add(whole)
        if outcome.device_failed:
            self.mishaps.device_failed(flight, outcome.error_text or "it failed", guilty=False)
        self._tell_finished(flight, outcome, worker, again_in_s=delay_s)

    def _count(self, flight: Flight, outcome: Outcome) -> None:
        """An outcome stands: learn from it, and count it."""
        self._forget(flight, outcome)
        wall_s = self.now_s() - flight.begun_s
        self.result.count(outcome)
        if outcome.state is not State.DONE or outcome.rendered_only:
            return
        self.litter += [record.file.path for record in flight.planned.parts.values()]
        self.crew.finished(outcome.device)
        job = flight.job  # as it began: what is kept of it since then is its own work
        if outcome.duration_s is not None and not (job.kept or job.parts):
            self.expectation.observe(outcome.device, outcome.duration_s, wall_s)
        if self.guards.ladder is not None:
            self.guards.ladder.worked(outcome.device, outcome)

    def _forget(self, flight: Flight, outcome: Outcome) -> None:
        """Nothing more is done of the asset in this run: there may be a million."""
        asset_id = outcome.asset_id
        self.holds.settled(flight.job.key)
        self.tries.pop(flight.job.key, None)
        self.tries.pop(asset_id, None)
        self.positions.pop(asset_id, None)
        done = outcome.state is State.DONE and not outcome.rendered_only
        self.mishaps.forget(asset_id, done=done)

    def _tell_finished(
        self,
        flight: Flight,
        outcome: Outcome,
        worker: str,
        *,
        again_in_s: float | None,
        waits: bool = False,
    ) -> None:
        self.emit(
            events.AssetFinished(
                name=flight.job.asset.name,
                position=flight.job.position,
                total=flight.job.total,
                worker=worker,
                outcome=outcome,
                wall_s=self.now_s() - flight.begun_s,
                will_retry_in_s=again_in_s,
                share=flight.job.share,
                waits_for=outcome.away.store if waits and outcome.away else "",
            )
        )

    def _retry_delay_s(self, job: Job, outcome: Outcome) -> float | None:
        """Seconds until the next attempt: doubling, with jitter; None when this was the last."""
        tries = self.tries[
            job.asset.id if job.copy else job.key
        ]  # of this run: nights that were killed are nobody's fault
        passing = outcome.transient or (outcome.away is not None and self.options.outage_wait_s > 0)
        if outcome.state is State.DONE or not passing:
            return None
        if tries >= self.options.max_attempts:
            return None
        delay_s = min(self.options.retry_delay_s * 2.0 ** (tries - 1), MAX_RETRY_DELAY_S)
        return delay_s * random.uniform(0.75, 1.25)

    def _after_failure(self) -> None:
        if self.stop.requested.is_set():
            return
        if self.options.fail_fast:
            self._answered(go_on=False)
        elif len(self.backlog):
            self.pause.ask(self._answered)

    def _answered(self, go_on: bool) -> None:
        # A signal that came while the question was open has been obeyed already.
        if not go_on and not self.stop.requested.is_set():
            self.result.stopped_by_failure = True
            self.stop.request("a failure")
