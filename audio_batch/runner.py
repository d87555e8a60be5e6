"""The run: select, dispatch, commit, retry.

    Runner.run
      ├─ Crew.load_all           every device's models, before any asset is touched
      ├─ Backlog                 a window of the feed, filled up as it empties
      └─ loop: all that has come in, in one transaction of the journal; events and jobs go out after
          ├─ _take               each message of a worker:
          │   ├─ started, progress     → event
          │   ├─ stage done            → journal.finish_stage
          │   ├─ finished → Endings    → journal.finish → release → event, or again later
          │   └─ died → Mishaps.died   → what ran is done again, alone, or set aside
          ├─ Mishaps.watch       what takes too long is given up
          └─ _dispatch           while there is room: Dispatch.next → journal.start → submit

Workers return records; only this thread commits, decides and emits. They never wait for a commit:
what they do next has been begun ahead. Failed attempts that may pass are done again after a growing
delay. Whatever ends the run early, work that is running is waited
for and committed, unless it is dropped. Nothing here knows what a job does.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from audio_batch import events
from audio_batch.backlog import Backlog
from audio_batch.control import Asker, Inbox, Message, Pause, StopControl
from audio_batch.crew import Crew, Loader
from audio_batch.dispatch import Beginning, Dispatch, Pace, rank_of
from audio_batch.endings import Endings
from audio_batch.errors import SetupError
from audio_batch.feeding import Feed
from audio_batch.flights import Flight, Flights, carried_on, job_of
from audio_batch.gpu.balancer import Balancer
from audio_batch.gpu.policies import EARLIEST_FINISH
from audio_batch.guards import Guards
from audio_batch.journal import Journal
from audio_batch.manifest import Asset
from audio_batch.mishaps import Mishaps
from audio_batch.options import RunOptions
from audio_batch.outcome import Outcome, Published, RunResult, StageRecord, State
from audio_batch.partings import Partings
from audio_batch.pipeline import Job
from audio_batch.plan import Action, Planned
from audio_batch.pools import Death, Finished, Pool
from audio_batch.tell import Tell
from audio_batch.watchdog import Expectation, Ticker

_TICK_S = 0.5
"""How often the loop looks at delays and at a grace period; also bounds Ctrl-C on Windows."""

_ABANDONED_S = 2.0
"""What was abandoned ends at its next step: so long it is waited for."""

_AT_ONCE = 1000
"""Messages that are taken in one go: a flood of progress must not keep outcomes from the disk."""


_NEXT_IN_LINE = 64
"""Of so many assets those that are not on this machine are told to whoever fetches ahead."""


MakePool = Callable[[Tell, Callable[[Death], None]], Pool]
"""Opens the pool of a run: what workers tell, and whom to tell of a process's death. It begins no
process yet."""


class Runner:
    """Drives one run to its end. Main thread only.

    Args:
        reserve: a device that takes part only when every other one is out.
        asker: whom to ask after a failure whether to go on; None goes on without asking.
        grace_s: after a scheduler's signal, how long running jobs may take to end.
        fetch_ahead: is told which assets of other machines are next in line, each time that some
            have begun.
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
        pace: Pace | None = None,
        reserve: str | None = None,
        asker: Asker | None = None,
        grace_s: float = 25.0,
        fetch_ahead: Callable[[Sequence[Asset]], None] | None = None,
    ) -> None:
        self._options = options
        self._journal = journal
        self._run_id = run_id
        self._balancer = balancer
        self._tell_reporter = emit
        self._held: list[events.Event] | None = None
        self._beginnings: list[Flight] = []
        self._guards = guards or Guards()
        pace = pace or Pace()
        self._inbox: Inbox = queue.SimpleQueue()
        self._received: deque[Message] = deque()
        self._given_up: set[int] = set()
        self._serials = itertools.count(1)
        tell = Tell(self._on_progress, self._on_stage_done, self._on_published, self._is_given_up)
        self._pool = pool(tell, lambda death: self._inbox.put(lambda: self._mishaps.died(death)))
        self._pause = Pause(asker, self._inbox)
        self.stop = StopControl(self._inbox, grace_s)
        self._watch_due_s = 0.0
        self._announced_stop = False
        self._draining = False
        self._fetch_ahead = fetch_ahead
        self._flights = Flights()
        self._positions: dict[str, int] = {}
        self._total = self._places_taken = 0
        self._claims = itertools.count()
        self._copies = (
            options.backup_copies
            and options.policy == EARLIEST_FINISH
            and len(balancer.loads()) > (2 if reserve is not None else 1)
        )
        self._tries: Counter[str] = Counter()
        self._expectation = Expectation()
        rank = rank_of(options, pace.lengths)
        self._backlog = Backlog(self._guards, self._expectation, rank)
        self._ticker = Ticker()
        self.result = RunResult()
        self._crew = Crew(
            balancer,
            loader(self._pool),
            max_restarts=options.max_restarts,
            reserve=reserve,
            ladder=self._guards.ladder,
            inbox=self._inbox,
            emit=self._emit,
            result=self.result,
        )
        slots = sum(load.maximum for load in balancer.loads() if load.device.id != reserve)
        self._partings = Partings(options.split_long_s, slots, lengths=pace.lengths)
        self._endings = Endings(
            options=options,
            journal=journal,
            guards=self._guards,
            backlog=self._backlog,
            flights=self._flights,
            partings=self._partings,
            pool=self._pool,
            crew=self._crew,
            expectation=self._expectation,
            tries=self._tries,
            positions=self._positions,
            given_up=self._given_up,
            pause=self._pause,
            stop=self.stop,
            result=self.result,
            emit=self._emit,
            now_s=self._now_s,
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
            emit=self._emit,
            end=self._endings.end,
            interrupted=self._endings.interrupted,
            lose=self._endings.lose,
            forgive=journal.forgive,
            given_up=self._given_up,
        )
        self._dispatcher = Dispatch(
            options=options,
            guards=self._guards,
            backlog=self._backlog,
            balancer=balancer,
            crew=self._crew,
            flights=self._flights,
            failed_on=self._mishaps.failed_on,
            pace=pace,
            isolated=self._pool.isolated,
            workers=self._pool.workers,
        )
        self._endings.mishaps, self._endings.dispatcher = self._mishaps, self._dispatcher

    def run(self, feed: Feed) -> RunResult:
        """Do everything that the feed has, in its order.

        Raises:
            SetupError: no device is left, the model cannot be loaded, the disk is full, or the
                journal fails. What was running is finished and committed first.
        """
        begun_s = time.monotonic()
        self._total = len(feed)
        needed = feed.needed()
        if self._options.split_long_s is not None:
            self._partings.heard = self._journal.parts()
        self._backlog.feed_from(feed, self._taken)
        try:
            if self._pool.isolated or needed:
                self._crew.load_all(needed)
            self._loop()
        except BaseException as error:
            self._drain(error)
            raise
        finally:
            self._announce_stop()
            self.result.wall_s = time.monotonic() - begun_s
            self.result.not_begun = self._not_done()
            stopped = self.stop.requested.is_set()
            self.result.interrupted = stopped and not self.result.stopped_by_failure
            # A library that loads cannot be interrupted, a process can be killed.
            stuck = self._crew.loading and not self._pool.isolated
            self.result.dropped = self.result.dropped or stuck
            released = (
                self._pool.drop()
                if self._flights.held or self.result.dropped
                else self._pool.close()
            )
            self.result.dropped = self.result.dropped or not released
            self._take_what_is_there()
            self._put_back()
        return self.result

    def _loop(self) -> None:
        while not self.stop.drop:
            with self._together():
                self._take()
                self._watch()
                self._dispatch()
                if self.stop.requested.is_set():
                    self._endings.withdraw()
            ended = self.stop.requested.is_set() or not len(self._backlog)
            if not len(self._flights) and (ended or self._out_of_time()):
                break
            self._receive()
        until_s = time.monotonic() + _ABANDONED_S
        while self._flights.held and not self.stop.drop and time.monotonic() < until_s:
            self._receive()
            self._take()

    def _taken(self, item: Planned) -> Iterable[Planned]:
        """An asset comes from the feed: what is to be done of it."""
        asset_id = item.asset.id
        self._places_taken += 1
        self._positions[asset_id] = self._places_taken
        if item.suspect and item.entry is not None:
            self._mishaps.deaths[asset_id] = item.entry.deaths
        return self._partings.cut(item)

    def _not_done(self) -> int:
        """Assets that were not begun or not ended."""
        at_work = (f.job.asset.id for f in self._flights.values() if not f.abandoned)
        return self._backlog.assets_left(at_work)

    def _watch(self) -> None:
        """Look after what takes too long, not after each of a thousand messages."""
        now_s = self._now_s()
        if now_s >= self._watch_due_s:
            self._watch_due_s = now_s + _TICK_S / 2
            self._mishaps.watch(now_s)
            self._crew.look_after_loading(self._guards.watch.stall_s)

    def _drain(self, error: BaseException) -> None:
        """After an error: let what runs end, and commit what still can be committed."""
        self._draining = True
        if len(self._flights):
            text = f"{error} {len(self._flights)} running are finished first."
            self._emit(events.Notice(text, warning=True))
        while len(self._flights) and not self.stop.drop:
            # Each by itself: what cannot be committed must not take others with it.
            with contextlib.suppress(SetupError):  # the first error is the one that is told
                self._mishaps.watch(self._now_s())
                self._take(at_most=1)
            if not self._received:
                self._receive()
            self._announce_stop()

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """Commit all that is done within as one; what follows from it, follows after that.

        Raises:
            SetupError: it cannot be committed. Nothing of it has been told to anybody.
        """
        self._held = []
        committed = False
        try:
            with self._journal.grouped():
                yield
            committed = True
        except BaseException:
            for flight in self._beginnings:  # nobody has heard of them
                self._flights.remove(flight)
                self._guards.floor.ended(flight.job.key)
                flight.release()
                self._tries[flight.job.key] -= 1
                self._backlog.put_back(flight.planned)
            self._beginnings.clear()
            raise
        finally:
            held, self._held = self._held, None
            for event in held:
                # What was not committed is not said to be done.
                if committed or isinstance(event, events.Notice | events.DeviceOut):
                    self._emit(event)
        self._endings.tidy()
        beginnings, self._beginnings = self._beginnings, []
        for flight in beginnings:
            self._submit(flight)

    def _emit(self, event: events.Event) -> None:
        if self._held is None:
            self._tell_reporter(event)
        else:
            self._held.append(event)

    def _take(self, at_most: int = _AT_ONCE) -> None:
        """Act on what has come in. Where one message fails, those behind it are still there."""
        for _ in range(min(at_most, len(self._received))):
            self._received.popleft()()
            self._announce_stop()

    def _receive(self) -> None:
        """See what has come in; waits a while for the first."""
        patience_s = _TICK_S
        due_s = self._backlog.due_in_s()
        if due_s is not None and self._may_begin:
            patience_s = min(_TICK_S, due_s + 0.001)
        with contextlib.suppress(queue.Empty):
            self._received.append(self._inbox.get(timeout=patience_s))
            while len(self._received) < _AT_ONCE:
                self._received.append(self._inbox.get_nowait())

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
        self._backlog.fill()
        self._begin_what_may()
        if self._beginnings and self._fetch_ahead is not None:
            remote = [
                item.asset
                for item in self._backlog.ahead(_NEXT_IN_LINE)
                if item.asset.path is None and item.action is Action.PROCESS and item.missing
            ]
            if remote:
                self._fetch_ahead(remote)

    def _begin_what_may(self) -> None:
        while self._may_begin:
            self._backlog.take_due()
            try:
                beginning = self._dispatcher.next(self._now_s())
            except SetupError:
                # What runs on a device that was taken out may still end well.
                if len(self._flights):
                    return
                raise
            if beginning is None:
                if not len(self._backlog):
                    self._copy()
                return
            self._backlog.remove(beginning.planned)
            self._begin(beginning)

    def _begin(self, beginning: Beginning) -> None:
        planned, device = beginning.planned, beginning.device
        asset = planned.asset
        division = self._partings.of(planned)
        attempt = division.attempt if division is not None else None
        try:
            if attempt is None:
                attempt = self._journal.start(
                    asset.id,
                    name=asset.name,
                    source=planned.source,
                    fingerprint=planned.fingerprint,
                    rendering=planned.rendering,
                    device=device.id,
                    run_id=self._run_id,
                )
        except BaseException:
            if beginning.lease is not None:
                beginning.lease.release()
            self._backlog.put_back(planned)
            raise
        if division is not None:
            division.attempt = attempt
            if planned.part is None:
                self._partings.begun(planned)
        position = self._positions[asset.id]
        claim = ""
        whole = planned.action is Action.PROCESS and planned.part is None
        if self._copies and whole and not planned.suspect:
            claim = f"{self._run_id}-{next(self._claims)}"
        job = job_of(
            planned,
            device.id,
            attempt,
            position,
            self._total,
            claim=claim,
            serial=next(self._serials),
        )
        self._tries[job.key] += 1
        self._take_off(job, beginning)

    def _take_off(self, job: Job, beginning: Beginning) -> None:
        planned, device = beginning.planned, beginning.device
        now_s = self._now_s()
        ladder = self._guards.ladder
        flight = Flight(
            planned,
            job,
            device,
            beginning.lease,
            self._balancer.status_line(),
            begun_s=now_s,
            told_s=now_s,
            since_s=now_s,
            duration_s=job.asset.duration_s,
            expected_s=beginning.expected_s,
            steps=ladder.steps(device.id) if ladder else 0,
            area=self._dispatcher.touch(device.id, now_s),
            queued=beginning.queued,
        )
        self._flights.add(flight)
        self._guards.floor.begun(job.key, self._guards.need_bytes(planned))
        self._beginnings.append(flight)

    def _copy(self) -> None:
        """At the end: do what runs late once more elsewhere. The first one to be done counts."""
        while self._copies and (late := self._dispatcher.copy(self._now_s())) is not None:
            flight, lease = late
            device = lease.device
            serial = next(self._serials)
            job = replace(flight.job, device=device.id, copy=True, serial=serial)
            self._take_off(job, Beginning(flight.planned, device, lease, None))
            text = f"{flight.job.asset.name} takes long on {flight.job.device}: "
            self._emit(events.Notice(f"{text}it is done on {device.id} too."))

    def _submit(self, flight: Flight) -> None:
        self._pool.submit(
            flight.job,
            started=lambda job, worker: self._inbox.put(lambda: self._started(job, worker)),
            finished=lambda finished: self._inbox.put(lambda: self._finished(finished)),
        )

    def _now_s(self) -> float:
        return self._ticker.awake_s(time.monotonic())

    def _out_of_time(self) -> bool:
        if not self._backlog.nothing_fits(self._crew.in_service()):
            return False
        self.result.out_of_time = True
        text = f"The time is up: {self._not_done()} assets are left for the next run."
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
        return job.serial in self._given_up

    def _stage_done(self, record: StageRecord) -> None:
        flight = self._flights.get(record.asset_id)
        if flight is None or flight.abandoned:
            return  # a copy of it has been done meanwhile
        self._journal.finish_stage(record)
        if flight.job.source == record.source:
            # Should this attempt end with its process, the next one goes on from here.
            flight.planned = carried_on(flight.planned, (record,))

    def _progressed(self, event: events.AssetProgress) -> None:
        flight = self._flights.get(event.key)
        if flight is not None and flight.job.device == event.device:
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
                share=job.share,
            )
        )

    def _finished(self, finished: Finished) -> None:
        if self._flights.holds(finished.job):  # else it was given up in this very moment
            self._endings.end(self._flights.of(finished.job), finished.outcome, finished.worker)

    def _take_what_is_there(self) -> None:
        """Nobody will wait for more: what has been done and told is committed all the same."""
        self._draining = True
        self._crew.close()
        with contextlib.suppress(queue.Empty):
            while True:
                self._received.append(self._inbox.get_nowait())
        while self._received:
            with contextlib.suppress(SetupError):
                self._take(at_most=1)

    def _put_back(self) -> None:
        """Journal what a dropped run still had in hand as interrupted, uncounted."""
        for flight in self._flights.values():
            lone = not self._flights.others(flight)
            if flight.abandoned or flight.job.part or (flight.job.copy and not lone):
                continue
            with contextlib.suppress(SetupError):  # it stays `running`: debris for the next run
                self._journal.finish(flight.outcome(State.INTERRUPTED), counts=False)
        for division in self._partings.open():
            asset_id, fingerprint = division.whole.asset.id, division.whole.fingerprint
            broken_off = Outcome(asset_id, State.INTERRUPTED, fingerprint, device="")
            with contextlib.suppress(SetupError):
                self._journal.finish(broken_off, counts=False)
