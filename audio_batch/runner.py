"""The run: select, dispatch, commit, retry.

    Runner.run
      ├─ Crew.load_all           every device's models, before any asset is touched
      └─ loop
          ├─ _dispatch           while a slot is free: choose → try_lease → journal.start → submit
          ├─ _watch              what takes too long is given up, its device begun anew
          └─ _handle             one message of a worker:
              ├─ started, progress     → event
              ├─ stage done            → journal.finish_stage
              ├─ finished → _commit    → journal.finish → release → event, or again later
              └─ died                  → what ran is done again, alone, or set aside

Workers return records; only this thread commits, decides and emits. Failed attempts that may pass
are done again after a growing delay. Whatever ends the run early, work that is running is waited
for and committed, unless it is dropped. Nothing here knows what a job does.
"""

from __future__ import annotations

import contextlib
import queue
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from audio_batch import events
from audio_batch.backlog import Backlog
from audio_batch.control import Asker, Inbox, Pause, StopControl, wake_up
from audio_batch.crew import Crew, Loader
from audio_batch.errors import ErrorKind, SetupError
from audio_batch.flights import Flight, carried_on, job_of
from audio_batch.gpu.balancer import Balancer, Lease
from audio_batch.guards import Guards
from audio_batch.journal import Journal
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

MAX_DEVICES_PER_ASSET = 2
"""After so many devices have failed on one asset it is the asset that is suspected."""

_MAX_TIMEOUTS = 2
"""An asset that took too long is given one more chance, with a process of its own."""


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
        self._pool = pool(tell, lambda death: self._inbox.put(lambda: self._died(death)))
        self._pause = Pause(asker, self._inbox)
        self.stop = StopControl(self._inbox, grace_s)
        self._announced_stop = False
        self._draining = False
        self._in_flight: dict[str, Flight] = {}
        self._positions: dict[str, int] = {}
        self._tries: Counter[str] = Counter()
        self._timeouts: Counter[str] = Counter()
        self._deaths: Counter[str] = Counter()
        self._failed_devices: defaultdict[str, set[str]] = defaultdict(set)
        self._expectation = Expectation()
        self._backlog = Backlog(self._guards, self._expectation)
        self._ticker = Ticker()
        self.result = RunResult()
        self._crew = Crew(
            balancer,
            loader(self._pool),
            max_restarts=options.max_restarts,
            reserve=reserve,
            inbox=self._inbox,
            emit=emit,
            result=self.result,
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
                self._deaths[item.asset.id] = item.entry.deaths
        try:
            needed = {
                stage for item in todo if item.action is Action.PROCESS for stage in item.missing
            }
            loaded = self._pool.isolated or needed
            if loaded and not self._crew.load_all(needed, self.stop):
                # A library that loads cannot be interrupted, a process can be killed.
                self.result.dropped = not self._pool.isolated
                return self.result
            self._loop()
        except BaseException as error:
            self._drain(error)
            raise
        finally:
            self._announce_stop()
            self.result.wall_s = time.monotonic() - begun_s
            self.result.not_begun = len(self._backlog) + len(self._in_flight)
            stopped = self.stop.requested.is_set()
            self.result.interrupted = stopped and not self.result.stopped_by_failure
            released = (
                self._pool.drop() if self._in_flight or self.result.dropped else self._pool.close()
            )
            self.result.dropped = self.result.dropped or not released
            self._put_back()
        return self.result

    def _loop(self) -> None:
        while not self.stop.drop:
            self._watch()
            self._dispatch()
            ended = self.stop.requested.is_set() or not len(self._backlog)
            if not self._in_flight and (ended or self._out_of_time()):
                return
            self._take_message()()
            self._announce_stop()

    def _drain(self, error: BaseException) -> None:
        """After an error: let what runs end, and commit what still can be committed."""
        self._draining = True
        if self._in_flight:
            text = f"{error} {len(self._in_flight)} running are finished first."
            self._emit(events.Notice(text, warning=True))
        while self._in_flight and not self.stop.drop:
            with contextlib.suppress(SetupError):  # the first error is the one that is told
                self._watch()
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
            self._emit(events.StopRequested(self.stop.reason, len(self._in_flight)))

    # -- dispatch -------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        self._crew.tell()
        while self._may_begin:
            self._backlog.take_due()
            if not len(self._backlog) or len(self._in_flight) >= self._pool.workers:
                return
            chosen = self._backlog.choose(
                self._in_flight.values(),
                self._crew.in_service(),
                self._failed_devices,
                isolated=self._pool.isolated,
            )
            if chosen is None:
                return
            planned, exclude = chosen
            try:
                lease = self._balancer.try_lease(exclude=exclude)
            except SetupError:
                # What runs on a device that was taken out may still end well.
                if self._in_flight:
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
        self._in_flight[asset.id] = Flight(
            planned,
            job,
            lease,
            self._balancer.status_line(),
            begun_s=now_s,
            told_s=now_s,
            duration_s=asset.duration_s,
            steps=self._guards.ladder.steps(lease.device.id) if self._guards.ladder else 0,
        )
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
        self._inbox.put(lambda: self._journal.finish_stage(record))

    def _on_published(self, published: Published) -> None:
        """Called in a worker."""
        self._inbox.put(lambda: self._journal.publish_early(published))

    def _is_given_up(self, job: Job) -> bool:
        """Called in a worker."""
        return (job.asset.id, job.attempt) in self._given_up

    def _progressed(self, event: events.AssetProgress) -> None:
        flight = self._in_flight.get(event.asset_id)
        if flight is not None:
            flight.told(event, self._now_s())
            self._emit(event)

    def _started(self, job: Job, worker: str) -> None:
        flight = self._in_flight.get(job.asset.id)
        if flight is None or flight.job is not job:
            return
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
        flight = self._in_flight.get(finished.job.asset.id)
        if flight is None or flight.job is not finished.job:
            return  # it was given up in the very moment
        self._end(flight, finished.outcome, finished.worker)

    def _end(self, flight: Flight, outcome: Outcome, worker: str = "Main") -> None:
        """A job has ended, however."""
        del self._in_flight[flight.job.asset.id]
        self._guards.floor.ended(flight.job.asset.id)
        try:
            self._commit(flight, outcome, worker)
        finally:
            flight.lease.release()

    # -- what went wrong with a worker ------------------------------------------------------------

    def _watch(self) -> None:
        """Give up what takes too long or does not move."""
        now_s = self._now_s()
        for flight in list(self._in_flight.values()):
            device = flight.job.device
            duration_s = flight.duration_s
            budget_s = self._guards.watch.budget_s(
                duration_s,
                self._expectation.expected_s(device, duration_s),
                on_cuda=flight.lease.device.kind == "cuda",
            )
            verdict = self._guards.watch.verdict(flight.begun_s, flight.told_s, now_s, budget_s)
            if verdict is not None and flight.job.asset.id in self._in_flight:
                quiet_s = now_s - flight.told_s
                took_s = now_s - flight.begun_s
                at = f" (at {flight.stage})" if flight.stage else ""
                text = (
                    f"It was given up after {took_s:.0f} s{at}: it has told nothing for "
                    f"{quiet_s:.0f} s (--stall-timeout)."
                    if verdict == "stalled"
                    else f"It was given up after {took_s:.0f} s{at} (--timeout)."
                )
                self._give_up(flight, text)

    def _give_up(self, flight: Flight, text: str) -> None:
        asset_id, device = flight.job.asset.id, flight.job.device
        self._given_up.add((asset_id, flight.job.attempt))
        others = self._pool.give_up(flight.job)
        self._timeouts[asset_id] += 1
        self._failed_devices[asset_id].add(device)
        again = self._timeouts[asset_id] < min(_MAX_TIMEOUTS, self._options.max_attempts)
        # What hangs may hang its device: it goes on alone, and last.
        flight.planned = replace(flight.planned, suspect=True)
        self._end(
            flight,
            flight.outcome(
                State.FAILED, error_kind=ErrorKind.TIMEOUT, error_text=text, transient=again
            ),
        )
        for job in others:
            self._requeue(self._in_flight[job.asset.id])
        if self._pool.isolated:
            self._crew.strike(device, "an asset that hung", [asset_id])

    def _requeue(self, flight: Flight) -> None:
        """Put back what ended through no fault of its own: this attempt does not count."""
        self._tries[flight.job.asset.id] -= 1
        self._backlog.put_back(flight.planned)
        del self._in_flight[flight.job.asset.id]
        self._guards.floor.ended(flight.job.asset.id)
        flight.lease.release()
        self._journal.finish(flight.outcome(State.INTERRUPTED), counts=False)

    def _died(self, death: Death) -> None:
        """The process of a device has ended by itself."""
        flights = self._in_flight
        for job in death.waiting:
            if job.asset.id in flights and flights[job.asset.id].job is job:
                self._requeue(flights[job.asset.id])
        ran = [
            flights[job.asset.id]
            for job in death.running
            if job.asset.id in flights and flights[job.asset.id].job is job
        ]
        if any(x.device.id == death.device and x.held for x in self._balancer.loads()):
            return  # a job that was on its way when the process died
        told = f": {death.evidence}" if death.evidence else ""
        text = f"The process of {death.device} died by {death.how}{told}."
        if ran:
            text += f" {len(ran)} at work there are done again, one at a time."
        self._emit(events.Notice(text, warning=True))
        convicted = [self._end_of_dead(flight, death, alone=len(ran) == 1) for flight in ran]
        assets = [flight.job.asset.id for flight in ran]
        self._crew.strike(death.device, death.how, assets, counts=not any(convicted))

    def _end_of_dead(self, flight: Flight, death: Death, *, alone: bool) -> bool:
        """Do it again with nothing beside it, or set it aside; whether it is set aside."""
        asset_id = flight.job.asset.id
        self._deaths[asset_id] += 1
        self._failed_devices[asset_id].add(death.device)
        at = f" during {flight.stage}" if flight.stage else ""
        text = f"It ended its worker process by {death.how}{at} on {death.device}"
        if death.evidence:
            text += f": {death.evidence}"
        if death.log is not None:
            text += f" (more in {death.log.name})"
        if alone and self._deaths[asset_id] >= self._options.max_attempts:
            self._crew.convict(asset_id)
            times = f"{text}, for the {self._deaths[asset_id]}. time. It is set aside; "
            outcome = flight.outcome(
                State.QUARANTINED,
                error_kind=ErrorKind.WORKER_DIED,
                error_text=f"{times}--retry-failed tries it again.",
                died=True,
            )
            self._end(flight, outcome)
            return True
        outcome = flight.outcome(
            State.INTERRUPTED, error_kind=ErrorKind.WORKER_DIED, error_text=f"{text}.", died=True
        )
        self._backlog.add(replace(flight.planned, suspect=True))
        del self._in_flight[asset_id]
        self._guards.floor.ended(asset_id)
        flight.lease.release()
        self._journal.finish(outcome)
        self._tell_finished(flight, outcome, "Main", again_in_s=0.0)
        return False

    # -- outcomes ---------------------------------------------------------------------------------

    def _commit(self, flight: Flight, outcome: Outcome, worker: str) -> None:
        job = flight.job
        planned = carried_on(flight.planned, outcome)
        if outcome.error_kind is ErrorKind.DISK_FULL:
            self._backlog.put_back(planned)
            self._journal.finish(replace(outcome, state=State.INTERRUPTED), counts=False)
            raise SetupError(outcome.error_text or "The disk is full.")
        if outcome.device_failed and self._is_the_devices_fault(job, outcome):
            # Last in line: should it be the asset after all, the others have been done by then.
            self._backlog.add(planned)
            self._journal.finish(replace(outcome, state=State.INTERRUPTED), counts=False)
            self._device_failed(flight, outcome.error_text or "it failed")
            self._tell_finished(flight, outcome, worker, again_in_s=0.0)
            return
        if outcome.error_kind is ErrorKind.OUT_OF_MEMORY and self._eased(flight, outcome):
            self._backlog.put_back(planned)
            self._tries[job.asset.id] -= 1
            self._journal.finish(replace(outcome, state=State.INTERRUPTED), counts=False)
            self._tell_finished(flight, outcome, worker, again_in_s=0.0)
            return
        delay_s = self._retry_delay_s(job, outcome)
        pending = delay_s is not None
        if planned.redo and outcome.state is State.FAILED and not pending:
            outcome = stands_all_the_same(outcome)
        # A run that is killed before the next attempt must find it still to be done.
        stands = replace(outcome, state=State.INTERRUPTED) if pending else outcome
        rendered = outcome.rendered_only and outcome.state is State.DONE
        self._journal.finish(stands, counts=not rendered, redo=planned.redo)
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
        if outcome.duration_s is not None and not flight.planned.kept:
            self._expectation.observe(outcome.device, outcome.duration_s, wall_s)
        if self._guards.ladder is not None:
            self._guards.ladder.worked(outcome.device, outcome)

    def _eased(self, flight: Flight, outcome: Outcome) -> bool:
        """Whether the device has been given less to do at once, so that another try makes sense."""
        if self._guards.ladder is None:
            return False
        device = outcome.device
        if self._guards.ladder.steps(device) > flight.steps:
            return True  # the step was taken for one that ran beside it
        idle = all(other.job.device != device for other in self._in_flight.values())
        step = self._guards.ladder.ease(device, outcome, idle=idle)
        if step is None:
            return False
        sentence, load_anew = step
        self._emit(events.Notice(sentence, warning=True))
        if load_anew:
            self._crew.begin_anew(device)
        return True

    def _device_failed(self, flight: Flight, reason: str) -> None:
        """A CUDA context that is lost comes back with a new process; a thread has none to lose."""
        device = flight.job.device
        if not self._pool.isolated:
            self._crew.take_out(device, reason)
            return
        if any(x.device.id == device and x.held for x in self._balancer.loads()):
            return  # a neighbour in the same process, which is being begun anew
        self._emit(events.Notice(f"{device} failed: {reason}", warning=True))
        for other in [f for f in self._in_flight.values() if f.job.device == device]:
            self._pool.give_up(other.job)
            self._requeue(other)
        self._crew.strike(device, reason, [flight.job.asset.id])

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

    def _is_the_devices_fault(self, job: Job, outcome: Outcome) -> bool:
        failed = self._failed_devices[job.asset.id]
        failed.add(outcome.device)
        return len(failed) < MAX_DEVICES_PER_ASSET

    def _retry_delay_s(self, job: Job, outcome: Outcome) -> float | None:
        """Seconds until the next attempt: doubling, with jitter; None when this was the last."""
        tries = max(job.attempt, self._tries[job.asset.id])  # attempts begin anew with the input
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
        for flight in self._in_flight.values():
            with contextlib.suppress(SetupError):  # it stays `running`: debris for the next run
                self._journal.finish(flight.outcome(State.INTERRUPTED), counts=False)
