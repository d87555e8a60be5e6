"""The run: select, dispatch, commit, retry.

    Runner.run
      ├─ _load_models            every device's model, before any asset is touched
      └─ loop
          ├─ _dispatch           while a slot is free: lease → journal.start → pool.submit
          └─ _handle             one message of a worker:
              ├─ started, progress     → event
              └─ finished → _commit    → journal.finish → release → event, or again later

Workers return records; only this thread commits, decides and emits. Failed attempts that may pass
are done again after a growing delay. Nothing here knows what a job does.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from audio_batch import events
from audio_batch.errors import DeviceError, ErrorKind, SetupError
from audio_batch.gpu.balancer import Balancer, Cancelled, Lease
from audio_batch.journal import Journal
from audio_batch.options import RunOptions
from audio_batch.outcome import Outcome, State
from audio_batch.pipeline import Job, source_identity
from audio_batch.plan import Action, Planned
from audio_batch.pools import Finished, Pool

_TICK_S = 0.5
"""How often the loop looks at delays and at a grace period; also bounds Ctrl-C on Windows."""

MAX_RETRY_DELAY_S = 300.0


@dataclass(slots=True)
class _InFlight:
    """What the runner holds of a job that a worker has."""

    planned: Planned
    job: Job
    lease: Lease
    status_line: str
    begun_s: float


@dataclass(slots=True)
class DeviceShare:
    """What one device did in this run."""

    assets: int = 0
    audio_s: float = 0.0
    busy_s: float = 0.0


@dataclass(slots=True)
class RunResult:
    """How a run ended; the journal holds what became of each asset."""

    done: int = 0
    rendered: int = 0
    failed: int = 0
    not_begun: int = 0
    interrupted: bool = False
    stopped_by_failure: bool = False
    dropped: bool = False
    wall_s: float = 0.0
    devices_out: dict[str, str] = field(default_factory=dict)
    shares: dict[str, DeviceShare] = field(default_factory=dict)


class Runner:
    """Drives one run to its end.

    Args:
        confirm: asked after a failure whether to go on; None goes on without asking.
        grace_s: after a termination signal, how long running jobs may take to end.
    """

    def __init__(
        self,
        *,
        options: RunOptions,
        journal: Journal,
        run_id: int,
        balancer: Balancer,
        pool: Callable[[Callable[[Job, str, float, float], None]], Pool],
        load_model: Callable[[str], Any],
        emit: Callable[[events.Event], None],
        confirm: Callable[[], bool] | None = None,
        grace_s: float = 25.0,
    ) -> None:
        self._options = options
        self._journal = journal
        self._run_id = run_id
        self._balancer = balancer
        self._load_model = load_model
        self._emit = emit
        self._confirm = confirm
        self._grace_s = grace_s
        # SimpleQueue.put is reentrant: a signal handler may use it in the middle of a get.
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._pool = pool(self._on_progress)
        self._todo: deque[Planned] = deque()
        self._later: list[tuple[float, int, Planned]] = []
        self._ticket = itertools.count()
        self._in_flight: dict[str, _InFlight] = {}
        self._positions: dict[str, int] = {}
        self._stop = threading.Event()
        self._stop_signal = ""
        self._announced_stop = False
        self._deadline_s: float | None = None
        self._drop = False
        self.loading = False
        self.result = RunResult()

    # -- from signal handlers -------------------------------------------------------------------

    def request_stop(self, signal_name: str, *, within_grace: bool = False) -> None:
        """Begin nothing new; a second request drops what runs. Safe in a signal handler."""
        if self._stop.is_set() and not within_grace:
            self._drop = True
        if within_grace and self._deadline_s is None:
            self._deadline_s = time.monotonic() + self._grace_s
        self._stop_signal = self._stop_signal or signal_name
        self._stop.set()
        self._inbox.put(lambda: None)

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested. Safe in a signal handler."""
        return self._stop.is_set()

    # -- the run --------------------------------------------------------------------------------

    def run(self, todo: Sequence[Planned]) -> RunResult:
        """Do everything in `todo`, in its order.

        Raises:
            SetupError: no device is left, or the model cannot be loaded, or the journal fails;
                what was done is committed.
        """
        begun_s = time.monotonic()
        self._todo.extend(todo)
        self._positions = {item.asset.id: n for n, item in enumerate(todo, 1)}
        try:
            if any(item.action is Action.TRANSCRIBE for item in todo):
                self.loading = True
                self._load_models()
                self.loading = False
            self._loop()
        finally:
            self.result.wall_s = time.monotonic() - begun_s
            self.result.not_begun = len(self._todo) + len(self._later)
            self.result.interrupted = self._stop.is_set() and not self.result.stopped_by_failure
            try:
                self._put_back()
            finally:
                if not self._drop:
                    self._pool.close()
        return self.result

    def _loop(self) -> None:
        while not self._drop:
            self._dispatch()
            if not self._in_flight and (self._stop.is_set() or not (self._todo or self._later)):
                return
            try:
                message = self._inbox.get(timeout=self._patience_s())
            except queue.Empty:
                message = _nothing
            message()
            if self._stop.is_set() and not self._announced_stop:
                self._announced_stop = True
                self._emit(events.StopRequested(self._stop_signal, len(self._in_flight)))
            if self._deadline_s is not None and time.monotonic() > self._deadline_s:
                self._drop = True

    def _patience_s(self) -> float:
        if not self._later:
            return _TICK_S
        return min(_TICK_S, max(0.0, self._later[0][0] - time.monotonic()))

    def _load_models(self) -> None:
        """Load every device's model side by side; a device that cannot is taken out."""
        ids = [load.device.id for load in self._balancer.loads()]
        with ThreadPoolExecutor(len(ids), thread_name_prefix="Loader") as executor:
            loading = {device: executor.submit(self._load_model, device) for device in ids}
        for device, future in loading.items():
            try:
                for warning in future.result().warnings:
                    self._emit(events.Notice(warning, warning=True))
            except DeviceError as error:
                self._take_out(device, str(error))
        if set(self.result.devices_out) == set(ids):
            raise SetupError(
                f"No device can run the model: {'; '.join(self.result.devices_out.values())}"
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
        if len(self._in_flight) >= self._pool.workers:
            return False
        self._tell_of_devices()
        loads = [load for load in self._balancer.loads() if load.out_reason is None]
        # With no device left, lease() is what explains it.
        return not loads or any(load.active < load.maximum for load in loads)

    def _dispatch(self) -> None:
        while not self._stop.is_set():
            self._todo.extend(self._due())
            if not self._todo or not self._slot_free():
                return
            try:
                lease = self._balancer.lease(cancelled=self._stop)
            except Cancelled:
                return
            self._begin(self._todo.popleft(), lease)

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
            published_json=planned.published_json if planned.action is Action.RENDER else None,
        )
        self._in_flight[asset.id] = _InFlight(
            planned, job, lease, self._balancer.status_line(), time.monotonic()
        )
        self._pool.submit(
            job,
            started=lambda job, worker: self._inbox.put(lambda: self._started(job, worker)),
            finished=lambda finished: self._inbox.put(lambda: self._commit(finished)),
        )

    # -- messages of workers --------------------------------------------------------------------

    def _on_progress(self, job: Job, stage: str, position_s: float, duration_s: float) -> None:
        """Called in a worker."""
        event = events.AssetProgress(job.asset.id, job.device, stage, position_s, duration_s)
        self._inbox.put(lambda: self._emit(event))

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

    def _commit(self, finished: Finished) -> None:
        job, outcome = finished.job, finished.outcome
        flight = self._in_flight[job.asset.id]
        delay_s = None
        if outcome.device_failed:
            self._journal.finish(replace(outcome, state=State.INTERRUPTED), counts=False)
            self._take_out(job.device, outcome.error_text or "it failed")
            self._todo.appendleft(flight.planned)
        else:
            delay_s = self._retry_delay_s(outcome, job.attempt)
            # A run that is killed before the next attempt must find it still to be done.
            pending = delay_s is not None
            self._journal.finish(replace(outcome, state=State.INTERRUPTED) if pending else outcome)
        del self._in_flight[job.asset.id]
        flight.lease.release()
        if outcome.device_failed:
            return
        if delay_s is not None:
            ready_s = time.monotonic() + delay_s
            again = flight.planned
            if outcome.error_kind is ErrorKind.INPUT_CHANGED:
                again = replace(again, source=source_identity(again.asset.path))
            heapq.heappush(self._later, (ready_s, next(self._ticket), again))
        elif outcome.state is State.DONE:
            self._count_done(outcome, time.monotonic() - flight.begun_s)
        else:
            self.result.failed += 1
        self._emit(
            events.AssetFinished(
                name=job.asset.name,
                position=job.position,
                total=job.total,
                worker=finished.worker,
                outcome=outcome,
                wall_s=time.monotonic() - flight.begun_s,
                will_retry_in_s=delay_s,
            )
        )
        if outcome.state is State.FAILED and delay_s is None:
            self._after_failure()

    def _count_done(self, outcome: Outcome, busy_s: float) -> None:
        self.result.done += 1
        if outcome.rendered_only:
            self.result.rendered += 1
            return
        share = self.result.shares.setdefault(outcome.device, DeviceShare())
        share.assets += 1
        share.audio_s += outcome.duration_s or 0.0
        share.busy_s += busy_s

    def _retry_delay_s(self, outcome: Outcome, attempt: int) -> float | None:
        """Seconds until the next attempt: doubling, with jitter; None when this was the last."""
        if outcome.state is State.DONE or not outcome.transient:
            return None
        if attempt >= self._options.max_attempts or self._stop.is_set():
            return None
        delay_s = min(self._options.retry_delay_s * 2.0 ** (attempt - 1), MAX_RETRY_DELAY_S)
        return delay_s * random.uniform(0.75, 1.25)

    def _after_failure(self) -> None:
        if self._stop.is_set():
            return
        if self._options.fail_fast:
            go_on = False
        elif self._confirm is not None and (self._todo or self._later):
            go_on = self._confirm()
        else:
            go_on = True
        if not go_on:
            self.result.stopped_by_failure = True
            self._stop_signal = "a failure"
            self._stop.set()

    def _put_back(self) -> None:
        """Journal what a dropped or broken run still had in hand as interrupted, uncounted."""
        for flight in self._in_flight.values():
            outcome = Outcome(
                asset_id=flight.job.asset.id,
                state=State.INTERRUPTED,
                fingerprint=flight.job.fingerprint,
                device=flight.job.device,
            )
            self._journal.finish(outcome, counts=False)
        self.result.dropped = bool(self._in_flight)
        self.result.not_begun += len(self._in_flight)


def _nothing() -> None:
    """The message of a tick."""
