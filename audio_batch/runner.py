"""The run: select, dispatch, commit, retry.

    Runner.run
      ├─ _load_models            every device's models, before any asset is touched
      └─ loop
          ├─ _dispatch           while a slot is free: try_lease → journal.start → pool.submit
          └─ _handle             one message of a worker:
              ├─ started, progress     → event
              ├─ stage done            → journal.finish_stage
              └─ finished → _commit    → journal.finish → release → event, or again later

Workers return records; only this thread commits, decides and emits. Failed attempts that may pass
are done again after a growing delay. Whatever ends the run early, work that is running is waited
for and committed, unless it is dropped. Nothing here knows what a job does.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import heapq
import itertools
import queue
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace

from audio_batch import events
from audio_batch.control import Asker, Inbox, Pause, StopControl, wake_up
from audio_batch.errors import DeviceError, ErrorKind, SetupError
from audio_batch.gpu.balancer import Balancer, Lease
from audio_batch.journal import Journal
from audio_batch.options import RunOptions
from audio_batch.outcome import Outcome, Published, RunResult, Stage, StageRecord, State
from audio_batch.pipeline import Job, source_identity
from audio_batch.plan import Action, Planned
from audio_batch.pools import Finished, Pool

_TICK_S = 0.5
"""How often the loop looks at delays and at a grace period; also bounds Ctrl-C on Windows."""

MAX_RETRY_DELAY_S = 300.0

MAX_DEVICES_PER_ASSET = 2
"""After so many devices have failed on one asset it is the asset that is suspected."""


@dataclass(frozen=True, slots=True)
class Tell:
    """What a worker tells while it is at an asset; see `pipeline.Context`."""

    progress: Callable[[events.AssetProgress], None]
    stage_done: Callable[[StageRecord], None]
    published: Callable[[Published], None]


@dataclass(slots=True)
class _InFlight:
    """What the runner holds of a job that a worker has."""

    planned: Planned
    job: Job
    lease: Lease
    status_line: str
    begun_s: float


class Runner:
    """Drives one run to its end.

    Args:
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
        pool: Callable[[Tell], Pool],
        load_models: Callable[[str, Set[Stage]], Sequence[str]],
        emit: Callable[[events.Event], None],
        asker: Asker | None = None,
        grace_s: float = 25.0,
    ) -> None:
        self._options = options
        self._journal = journal
        self._run_id = run_id
        self._balancer = balancer
        self._load_models_of = load_models
        self._emit = emit
        self._inbox: Inbox = queue.SimpleQueue()
        self._pool = pool(Tell(self._on_progress, self._on_stage_done, self._on_published))
        self._pause = Pause(asker, self._inbox)
        self.stop = StopControl(self._inbox, grace_s)
        self._announced_stop = False
        self._todo: deque[Planned] = deque()
        self._later: list[tuple[float, int, Planned]] = []
        self._ticket = itertools.count()
        self._in_flight: dict[str, _InFlight] = {}
        self._positions: dict[str, int] = {}
        self._tries: Counter[str] = Counter()
        self._failed_devices: defaultdict[str, set[str]] = defaultdict(set)
        self.result = RunResult()

    def run(self, todo: Sequence[Planned]) -> RunResult:
        """Do everything in `todo`, in its order.

        Raises:
            SetupError: no device is left, the model cannot be loaded, the disk is full, or the
                journal fails. What was running is finished and committed first.
        """
        begun_s = time.monotonic()
        self._todo.extend(todo)
        self._positions = {item.asset.id: n for n, item in enumerate(todo, 1)}
        try:
            needed = {
                stage for item in todo if item.action is Action.PROCESS for stage in item.missing
            }
            if needed:
                self._load_models(needed)
            self._loop()
        except BaseException as error:
            self._drain(error)
            raise
        finally:
            self._announce_stop()
            self.result.wall_s = time.monotonic() - begun_s
            self.result.not_begun = len(self._todo) + len(self._later) + len(self._in_flight)
            stopped = self.stop.requested.is_set()
            self.result.interrupted = stopped and not self.result.stopped_by_failure
            self.result.dropped = self.result.dropped or bool(self._in_flight)
            self._put_back()
            if not self.result.dropped:
                self._pool.close()
        return self.result

    def _loop(self) -> None:
        while not self.stop.drop:
            self._dispatch()
            ended = self.stop.requested.is_set() or not (self._todo or self._later)
            if ended and not self._in_flight:
                return
            self._take_message()()
            self._announce_stop()

    def _drain(self, error: BaseException) -> None:
        """After an error: let what runs end, and commit what still can be committed."""
        if self._in_flight:
            text = f"{error} {len(self._in_flight)} running are finished first."
            self._emit(events.Notice(text, warning=True))
        self._later, waiting = [], self._later  # they would only keep the loop awake
        while self._in_flight and not self.stop.drop:
            with contextlib.suppress(SetupError):  # the first error is the one that is told
                self._take_message()()
            self._announce_stop()
        self._later.extend(waiting)

    def _take_message(self) -> Callable[[], None]:
        patience_s = _TICK_S
        if self._later and not (self.stop.requested.is_set() or self._pause.open):
            patience_s = min(_TICK_S, max(0.0, self._later[0][0] - time.monotonic()))
        try:
            return self._inbox.get(timeout=patience_s)
        except queue.Empty:
            return wake_up

    def _announce_stop(self) -> None:
        if self.stop.requested.is_set() and not self._announced_stop:
            self._announced_stop = True
            self._emit(events.StopRequested(self.stop.reason, len(self._in_flight)))

    # -- devices --------------------------------------------------------------------------------

    def _load_models(self, needed: Set[Stage]) -> None:
        """Load every device's models side by side; a device that cannot is taken out.

        A stop leaves at once: nothing has begun, and a library that loads cannot be interrupted.
        """
        ids = [load.device.id for load in self._balancer.loads()]
        executor = concurrent.futures.ThreadPoolExecutor(len(ids), thread_name_prefix="Loader")
        loading = {device: executor.submit(self._load_models_of, device, needed) for device in ids}
        waiting = set(loading.values())
        while waiting:
            waiting = concurrent.futures.wait(waiting, timeout=_TICK_S).not_done
            if waiting and self.stop.requested.is_set():
                executor.shutdown(wait=False)
                self.result.dropped = True
                return
        executor.shutdown()
        told: set[str] = set()
        for device, future in loading.items():
            try:
                for warning in future.result():
                    if warning not in told:
                        self._emit(events.Notice(warning, warning=True))
                        told.add(warning)
            except DeviceError as error:
                self._take_out(device, str(error))
        if set(self.result.devices_out) == set(ids):
            raise SetupError(
                f"No device can run the models: {'; '.join(self.result.devices_out.values())}"
            )

    def _take_out(self, device: str, reason: str) -> None:
        self._balancer.take_out(device, reason)
        self._tell_of_devices()

    def _tell_of_devices(self) -> None:
        """Say once of each device that it is out; the balancer itself notices a lost GPU."""
        for load in self._balancer.loads():
            if load.out_reason is not None and load.device.id not in self.result.devices_out:
                self.result.devices_out[load.device.id] = load.out_reason
                self._emit(events.DeviceOut(load.device.id, load.out_reason))

    def _slot_free(self) -> bool:
        self._tell_of_devices()
        loads = [load for load in self._balancer.loads() if load.out_reason is None]
        if not loads:
            # try_lease explains that no device is left, once nothing runs any more.
            return not self._in_flight
        free = any(load.active < load.maximum for load in loads)
        return free and len(self._in_flight) < self._pool.workers

    # -- dispatch -------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while not self.stop.requested.is_set() and not self._pause.open:
            self._todo.extend(self._due())
            if not self._todo or self._must_be_alone() or not self._slot_free():
                return
            # A GPU may have been lost since _slot_free looked.
            lease = self._balancer.try_lease()
            if lease is None:
                return
            self._begin(self._todo.popleft(), lease)

    def _must_be_alone(self) -> bool:
        """Whether to wait because of an asset that ran when the program crashed.

        Such an asset runs with nothing beside it, so that another crash convicts or clears it.
        """
        if not self._in_flight:
            return False
        return self._todo[0].suspect or any(f.planned.suspect for f in self._in_flight.values())

    def _due(self) -> list[Planned]:
        """Retries whose delay is over."""
        due = []
        while self._later and self._later[0][0] <= time.monotonic():
            due.append(heapq.heappop(self._later)[2])
        return due

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
            self._todo.appendleft(planned)
            raise
        self._tries[asset.id] += 1
        job = Job(
            asset=asset,
            decoding=planned.decoding,
            formats=planned.formats,
            output_name=planned.output_name,
            source=planned.source,
            fingerprint=planned.fingerprint,
            device=lease.device.id,
            attempt=attempt,
            position=self._positions[asset.id],
            total=len(self._positions),
            stages=planned.stages,
            limits=planned.limits,
            kept=planned.kept,
            suspect=planned.suspect,
            published=planned.published if planned.action is Action.RENDER else None,
        )
        self._in_flight[asset.id] = _InFlight(
            planned, job, lease, self._balancer.status_line(), time.monotonic()
        )
        self._pool.submit(
            job,
            started=lambda job, worker: self._inbox.put(lambda: self._started(job, worker)),
            finished=lambda finished: self._inbox.put(lambda: self._finished(finished)),
        )

    # -- messages of workers --------------------------------------------------------------------

    def _on_progress(self, event: events.AssetProgress) -> None:
        """Called in a worker."""
        self._inbox.put(lambda: self._emit(event))

    def _on_stage_done(self, record: StageRecord) -> None:
        """Called in a worker."""
        self._inbox.put(lambda: self._journal.finish_stage(record))

    def _on_published(self, published: Published) -> None:
        """Called in a worker."""
        self._inbox.put(lambda: self._journal.publish_early(published))

    def _started(self, job: Job, worker: str) -> None:
        flight = self._in_flight[job.asset.id]
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
        flight = self._in_flight.pop(finished.job.asset.id)
        try:
            self._commit(flight, finished.outcome, finished.worker)
        finally:
            flight.lease.release()

    def _commit(self, flight: _InFlight, outcome: Outcome, worker: str) -> None:
        job, planned = flight.job, flight.planned
        # Another attempt goes on from here.
        done = {record.stage: record for record in outcome.stages}
        kept = {**planned.kept, **done}
        if Stage.TRANSCRIBE in done and Stage.ALIGN not in done:
            kept.pop(Stage.ALIGN, None)  # the times of other words
        planned = replace(planned, kept=kept)
        if outcome.error_kind is ErrorKind.DISK_FULL:
            self._todo.appendleft(planned)
            self._journal.finish(replace(outcome, state=State.INTERRUPTED), counts=False)
            raise SetupError(outcome.error_text or "The disk is full.")
        if outcome.device_failed and self._is_the_devices_fault(job, outcome):
            # Last in line: should it be the asset after all, the others have been done by then.
            self._todo.append(planned)
            self._journal.finish(replace(outcome, state=State.INTERRUPTED), counts=False)
            self._take_out(job.device, outcome.error_text or "it failed")
            self._tell_finished(flight, outcome, worker, again_in_s=0.0)
            return
        delay_s = self._retry_delay_s(job, outcome)
        pending = delay_s is not None
        # A run that is killed before the next attempt must find it still to be done.
        stands = replace(outcome, state=State.INTERRUPTED) if pending else outcome
        rendered = outcome.rendered_only and outcome.state is State.DONE
        self._journal.finish(stands, counts=not rendered)
        if delay_s is not None:
            if outcome.error_kind is ErrorKind.INPUT_CHANGED:
                source = source_identity(planned.asset.path)
                planned = replace(planned, source=source, kept={})
            again = (time.monotonic() + delay_s, next(self._ticket), planned)
            heapq.heappush(self._later, again)
        else:
            self.result.count(outcome, time.monotonic() - flight.begun_s)
        self._tell_finished(flight, outcome, worker, again_in_s=delay_s)
        if outcome.state in (State.FAILED, State.INCOMPLETE) and not pending:
            self._after_failure()

    def _tell_finished(
        self, flight: _InFlight, outcome: Outcome, worker: str, *, again_in_s: float | None
    ) -> None:
        self._emit(
            events.AssetFinished(
                name=flight.job.asset.name,
                position=flight.job.position,
                total=flight.job.total,
                worker=worker,
                outcome=outcome,
                wall_s=time.monotonic() - flight.begun_s,
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
        elif self._todo or self._later:
            self._pause.ask(self._answered)

    def _answered(self, go_on: bool) -> None:
        # A signal that came while the question was open has been obeyed already.
        if not go_on and not self.stop.requested.is_set():
            self.result.stopped_by_failure = True
            self.stop.request("a failure")

    def _put_back(self) -> None:
        """Journal what a dropped run still had in hand as interrupted, uncounted."""
        for flight in self._in_flight.values():
            outcome = Outcome(
                asset_id=flight.job.asset.id,
                state=State.INTERRUPTED,
                fingerprint=flight.job.fingerprint,
                device=flight.job.device,
                rendered_only=flight.job.published is not None,
            )
            with contextlib.suppress(SetupError):  # it stays `running`: debris for the next run
                self._journal.finish(outcome, counts=False)
