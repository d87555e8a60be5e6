"""The run: select, dispatch, commit, retry.

    Runner.run
      ├─ Crew.load_all           every device's models, before any asset is touched
      └─ loop
          ├─ _dispatch           while a slot is free: choose → try_lease → journal.start → submit
          ├─ Mishaps.watch       what takes too long is given up
          └─ _take_message       one message of a worker:
              ├─ started, progress     → event
              ├─ stage done            → journal.finish_stage
              ├─ finished → _commit    → journal.finish → release → event, or again later
              └─ died → Mishaps.died   → what ran is done again, alone, or set aside

Workers return records; only this thread commits, decides and emits. Failed attempts that may pass
are done again after a growing delay. Whatever ends the run early, work that is running is waited
for and committed, unless it is dropped. Nothing here knows what a job does.
"""

from __future__ import annotations

import contextlib
import queue
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from audio_batch import events
from audio_batch.backlog import Backlog
from audio_batch.control import Asker, Inbox, Pause, StopControl, wake_up
from audio_batch.crew import Crew, Loader
from audio_batch.errors import ErrorKind, SetupError
from audio_batch.flights import Flight, Flights, carried_on, job_of
from audio_batch.gpu.balancer import Balancer, Lease
from audio_batch.guards import Guards
from audio_batch.journal import Journal
from audio_batch.mishaps import Mishaps
from audio_batch.options import RunOptions
from audio_batch.outcome import Outcome, Published, RunResult, StageRecord, State
from audio_batch.pipeline import Job, source_identity
from audio_batch.plan import Action, Planned, due_for_redo, redo_of, stands_all_the_same
from audio_batch.pools import Death, Finished, Pool
from audio_batch.tell import Tell
from audio_batch.watchdog import Expectation, Ticker

_TICK_S = 0.5
"""How often the loop looks at delays and at a grace period; also bounds Ctrl-C on Windows."""

MAX_RETRY_DELAY_S = 300.0


MakePool = Callable[[Tell, Callable[[Death], None]], Pool]
"""Opens the pool of a run: what workers tell, and whom to tell of a process's death. It begins no
process yet."""


class Runner:
    """Drives one run to its end. Main thread only.

    Args:
        reserve: a device that takes part only when every other one is out.
        asker: whom to ask after a failure whether to go on; None goes on without asking.
        grace_s: after a scheduler's signal, how long running jobs may take to end.
    """

    def __init__(
        self,
        *,
        options: RunOptions,
        journal: Journal,
        run_id: int,
        balancer: Balancer,
        pool: MakePool,
        loader: Callable[[Pool], Loader],
        emit: Callable[[events.Event], None],
        guards: Guards | None = None,
        reserve: str | None = None,
        asker: Asker | None = None,
        grace_s: float = 25.0,
    ) -> None:
        self._options = options
        self._journal = journal
        self._run_id = run_id
        self._balancer = balancer
        self._emit = emit
        self._guards = guards or Guards()
        self._inbox: Inbox = queue.SimpleQueue()
        self._given_up: set[tuple[str, int]] = set()
        tell = Tell(self._on_progress, self._on_stage_done, self._on_published, self._is_given_up)
        self._pool = pool(tell, lambda death: self._inbox.put(lambda: self._mishaps.died(death)))
        self._pause = Pause(asker, self._inbox)
        self.stop = StopControl(self._inbox, grace_s)
        self._announced_stop = False
        self._draining = False
        self._flights = Flights()
        self._positions: dict[str, int] = {}
        self._tries: Counter[str] = Counter()
        self._expectation = Expectation()
        self._backlog = Backlog(self._guards, self._expectation)
        self._ticker = Ticker()
        self.result = RunResult()
        self._crew = Crew(
            balancer,
            loader(self._pool),
            max_restarts=options.max_restarts,
            reserve=reserve,
            ladder=self._guards.ladder,
            inbox=self._inbox,
            emit=emit,
            result=self.result,
        )
        self._mishaps = Mishaps(
            options=options,
            guards=self._guards,
            flights=self._flights,
            backlog=self._backlog,
            crew=self._crew,
            pool=self._pool,
            expectation=self._expectation,
            tries=self._tries,
            emit=emit,
            end=self._end,
            interrupted=self._interrupted,
            forgive=journal.forgive,
            given_up=self._given_up,
        )

    def run(self, todo: Sequence[Planned]) -> RunResult:
        """Do everything in `todo`, in its order.

        Raises:
            SetupError: no device is left, the model cannot be loaded, the disk is full, or the
                journal fails. What was running is finished and committed first.
        """
        begun_s = time.monotonic()
        self._backlog.add(*todo)
        self._positions = {item.asset.id: n for n, item in enumerate(todo, 1)}
        for item in todo:
            if item.suspect and item.entry is not None:
                self._mishaps.deaths[item.asset.id] = item.entry.deaths
        try:
            needed = {
                stage for item in todo if item.action is Action.PROCESS for stage in item.missing
            }
            if self._pool.isolated or needed:
                self._crew.load_all(needed)
            self._loop()
        except BaseException as error:
            self._drain(error)
            raise
        finally:
            self._announce_stop()
            self.result.wall_s = time.monotonic() - begun_s
            self.result.not_begun = len(self._backlog) + len(self._flights)
            stopped = self.stop.requested.is_set()
            self.result.interrupted = stopped and not self.result.stopped_by_failure
            # A library that loads cannot be interrupted, a process can be killed.
            stuck = self._crew.loading and not self._pool.isolated
            self.result.dropped = self.result.dropped or stuck
            released = (
                self._pool.drop()
                if len(self._flights) or self.result.dropped
                else self._pool.close()
            )
            self.result.dropped = self.result.dropped or not released
            self._put_back()
        return self.result

    def _loop(self) -> None:
        while not self.stop.drop:
            self._mishaps.watch(self._now_s())
            self._crew.look_after_loading(self._guards.watch.stall_s)
            self._dispatch()
            ended = self.stop.requested.is_set() or not len(self._backlog)
            if not len(self._flights) and (ended or self._out_of_time()):
                return
            self._take_message()()
            self._announce_stop()

    def _drain(self, error: BaseException) -> None:
        """After an error: let what runs end, and commit what still can be committed."""
        self._draining = True
        if len(self._flights):
            text = f"{error} {len(self._flights)} running are finished first."
            self._emit(events.Notice(text, warning=True))
        while len(self._flights) and not self.stop.drop:
            with contextlib.suppress(SetupError):  # the first error is the one that is told
                self._mishaps.watch(self._now_s())
                self._take_message()()
            self._announce_stop()

    def _take_message(self) -> Callable[[], None]:
        patience_s = _TICK_S
        due_s = self._backlog.due_in_s()
        if due_s is not None and self._may_begin:
            patience_s = min(_TICK_S, due_s + 0.001)
        try:
            return self._inbox.get(timeout=patience_s)
        except queue.Empty:
            return wake_up

    @property
    def _may_begin(self) -> bool:
        return not (self.stop.requested.is_set() or self._pause.open or self._draining)

    def _announce_stop(self) -> None:
        if self.stop.requested.is_set() and not self._announced_stop:
            self._announced_stop = True
            self._emit(events.StopRequested(self.stop.reason, len(self._flights)))

    # -- dispatch -------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        self._crew.tell()
        while self._may_begin:
            self._backlog.take_due()
            if not len(self._backlog) or len(self._flights) >= self._pool.workers:
                return
            chosen = self._backlog.choose(
                self._flights.values(),
                self._crew.in_service(),
                self._mishaps.failed_on,
                isolated=self._pool.isolated,
            )
            if chosen is None:
                return
            planned, exclude = chosen
            try:
                lease = self._balancer.try_lease(exclude=exclude)
            except SetupError:
                # What runs on a device that was taken out may still end well.
                if len(self._flights):
                    return
                raise
            if lease is None:
                return
            self._backlog.remove(planned)
            self._begin(planned, lease)

    def _begin(self, planned: Planned, lease: Lease) -> None:
        asset = planned.asset
        try:
            attempt = self._journal.start(
                asset.id,
                name=asset.name,
                source=planned.source,
                fingerprint=planned.fingerprint,
                rendering=planned.rendering,
                device=lease.device.id,
                run_id=self._run_id,
            )
        except BaseException:
            lease.release()
            self._backlog.put_back(planned)
            raise
        self._tries[asset.id] += 1
        position, total = self._positions[asset.id], len(self._positions)
        job = job_of(planned, lease.device.id, attempt, position, total)
        now_s = self._now_s()
        ladder = self._guards.ladder
        flight = Flight(
            planned,
            job,
            lease,
            self._balancer.status_line(),
            begun_s=now_s,
            told_s=now_s,
            duration_s=asset.duration_s,
            steps=ladder.steps(lease.device.id) if ladder else 0,
        )
        self._flights.add(flight)
        self._guards.floor.begun(asset.id, self._guards.need_bytes(planned))
        self._pool.submit(
            job,
            started=lambda job, worker: self._inbox.put(lambda: self._started(job, worker)),
            finished=lambda finished: self._inbox.put(lambda: self._finished(finished)),
        )

    def _now_s(self) -> float:
        return self._ticker.awake_s(time.monotonic())

    def _out_of_time(self) -> bool:
        if not self._backlog.nothing_fits(self._crew.in_service()):
            return False
        self.result.out_of_time = True
        text = f"The time is up: {len(self._backlog)} assets are left for the next run."
        self._emit(events.Notice(text, warning=True))
        return True

    # -- messages of workers --------------------------------------------------------------------

    def _on_progress(self, event: events.AssetProgress) -> None:
        """Called in a worker."""
        self._inbox.put(lambda: self._progressed(event))

    def _on_stage_done(self, record: StageRecord) -> None:
        """Called in a worker."""
        self._inbox.put(lambda: self._stage_done(record))

    def _on_published(self, published: Published) -> None:
        """Called in a worker."""
        self._inbox.put(lambda: self._journal.publish_early(published))

    def _is_given_up(self, job: Job) -> bool:
        """Called in a worker."""
        return (job.asset.id, job.attempt) in self._given_up

    def _stage_done(self, record: StageRecord) -> None:
        self._journal.finish_stage(record)
        flight = self._flights.get(record.asset_id)
        if flight is not None and flight.job.source == record.source:
            # Should this attempt end with its process, the next one goes on from here.
            flight.planned = carried_on(flight.planned, (record,))

    def _progressed(self, event: events.AssetProgress) -> None:
        flight = self._flights.get(event.asset_id)
        if flight is not None:
            flight.told(event, self._now_s())
            self._emit(event)

    def _started(self, job: Job, worker: str) -> None:
        if not self._flights.holds(job):
            return
        flight = self._flights.of(job)
        self._emit(
            events.AssetStarted(
                asset_id=job.asset.id,
                name=job.asset.name,
                position=job.position,
                total=job.total,
                attempt=job.attempt,
                device=job.device,
                worker=worker,
                balancer_status=flight.status_line,
                duration_s=job.asset.duration_s,
            )
        )

    def _finished(self, finished: Finished) -> None:
        if self._flights.holds(finished.job):  # else it was given up in this very moment
            self._end(self._flights.of(finished.job), finished.outcome, finished.worker)

    def _end(self, flight: Flight, outcome: Outcome, worker: str = "Main") -> None:
        """A job has ended, however."""
        self._flights.remove(flight)
        self._guards.floor.ended(flight.job.asset.id)
        try:
            self._commit(flight, outcome, worker)
        finally:
            flight.lease.release()

    def _interrupted(self, flight: Flight, outcome: Outcome, counts: bool) -> None:
        """A job has ended without an outcome of its own; its asset is in the backlog again."""
        self._flights.remove(flight)
        self._guards.floor.ended(flight.job.asset.id)
        flight.lease.release()
        self._journal.finish(outcome, counts=counts)
        if outcome.error_text:
            self._tell_finished(flight, outcome, "Main", again_in_s=0.0)

    # -- outcomes ---------------------------------------------------------------------------------

    def _commit(self, flight: Flight, outcome: Outcome, worker: str) -> None:
        job = flight.job
        planned = carried_on(flight.planned, outcome.stages)
        if outcome.error_kind is ErrorKind.DISK_FULL:
            self._backlog.put_back(planned)
            self._journal.finish(replace(outcome, state=State.INTERRUPTED), counts=False)
            raise SetupError(outcome.error_text or "The disk is full.")
        if outcome.device_failed and self._mishaps.is_the_devices_fault(job):
            # Last in line: should it be the asset after all, the others have been done by then.
            self._backlog.add(planned)
            self._journal.finish(replace(outcome, state=State.INTERRUPTED), counts=False)
            self._mishaps.device_failed(flight, outcome.error_text or "it failed", guilty=True)
            self._tell_finished(flight, outcome, worker, again_in_s=0.0)
            return
        if outcome.error_kind is ErrorKind.OUT_OF_MEMORY and self._mishaps.eased(flight, outcome):
            self._backlog.put_back(planned)
            self._tries[job.asset.id] -= 1
            self._journal.finish(replace(outcome, state=State.INTERRUPTED), counts=False)
            self._tell_finished(flight, outcome, worker, again_in_s=0.0)
            return
        delay_s = self._retry_delay_s(job, outcome)
        pending = delay_s is not None
        spoilt = outcome.state in (State.FAILED, State.QUARANTINED)
        if planned.redo and spoilt and not pending:
            outcome = stands_all_the_same(outcome)
        # A run that is killed before the next attempt must find it still to be done.
        stands = replace(outcome, state=State.INTERRUPTED) if pending else outcome
        rendered = outcome.rendered_only and outcome.state is State.DONE
        self._journal.finish(stands, counts=not rendered, redo=planned.redo)
        if outcome.error_kind is ErrorKind.OUT_OF_MEMORY:
            self._mishaps.renew(job.device)
        if due_for_redo(planned, outcome, self._options) and not self.stop.requested.is_set():
            self._backlog.add(redo_of(planned))
            self._tell_finished(flight, outcome, worker, again_in_s=0.0)
            return
        if delay_s is not None:
            if outcome.error_kind is ErrorKind.INPUT_CHANGED:
                source = source_identity(planned.asset.path)
                planned = replace(planned, source=source, kept={})
            self._backlog.add_later(planned, delay_s)
        else:
            self._count(flight, outcome)
        if outcome.device_failed:
            self._mishaps.device_failed(flight, outcome.error_text or "it failed", guilty=False)
        self._tell_finished(flight, outcome, worker, again_in_s=delay_s)
        if outcome.state in (State.FAILED, State.INCOMPLETE) and not pending:
            self._after_failure()

    def _count(self, flight: Flight, outcome: Outcome) -> None:
        """An outcome stands: learn from it, and count it."""
        wall_s = self._now_s() - flight.begun_s
        self.result.count(outcome, wall_s)
        if outcome.state is not State.DONE or outcome.rendered_only:
            return
        self._crew.finished(outcome.device)
        self._mishaps.done(outcome.asset_id)
        if outcome.duration_s is not None and not flight.planned.kept:
            self._expectation.observe(outcome.device, outcome.duration_s, wall_s)
        if self._guards.ladder is not None:
            self._guards.ladder.worked(outcome.device, outcome)

    def _tell_finished(
        self, flight: Flight, outcome: Outcome, worker: str, *, again_in_s: float | None
    ) -> None:
        self._emit(
            events.AssetFinished(
                name=flight.job.asset.name,
                position=flight.job.position,
                total=flight.job.total,
                worker=worker,
                outcome=outcome,
                wall_s=self._now_s() - flight.begun_s,
                will_retry_in_s=again_in_s,
            )
        )

    def _retry_delay_s(self, job: Job, outcome: Outcome) -> float | None:
        """Seconds until the next attempt: doubling, with jitter; None when this was the last."""
        tries = self._tries[job.asset.id]  # of this run: nights that were killed are nobody's fault
        if outcome.state is State.DONE or not outcome.transient:
            return None
        if tries >= self._options.max_attempts:
            return None
        delay_s = min(self._options.retry_delay_s * 2.0 ** (tries - 1), MAX_RETRY_DELAY_S)
        return delay_s * random.uniform(0.75, 1.25)

    def _after_failure(self) -> None:
        if self.stop.requested.is_set():
            return
        if self._options.fail_fast:
            self._answered(go_on=False)
        elif len(self._backlog):
            self._pause.ask(self._answered)

    def _answered(self, go_on: bool) -> None:
        # A signal that came while the question was open has been obeyed already.
        if not go_on and not self.stop.requested.is_set():
            self.result.stopped_by_failure = True
            self.stop.request("a failure")

    def _put_back(self) -> None:
        """Journal what a dropped run still had in hand as interrupted, uncounted."""
        for flight in self._flights.values():
            with contextlib.suppress(SetupError):  # it stays `running`: debris for the next run
                self._journal.finish(flight.outcome(State.INTERRUPTED), counts=False)
