"""The beginning of jobs: what may begin gets an attempt in the journal, a flight, and a worker.

begin_all
  ├─ Dispatch.next   → journal.start → Flight
  └─ Dispatch.copy   → Flight            nothing waits: what runs late is done once more
depart               all of it is committed: to the pool
recall               it could not be committed: as if nothing had begun
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from audio_batch import events
from audio_batch.backlog import Backlog
from audio_batch.dispatch import Beginning, Dispatch
from audio_batch.errors import SetupError
from audio_batch.flights import Flight, Flights, job_of
from audio_batch.guards import Guards
from audio_batch.journal import Journal
from audio_batch.news import News
from audio_batch.partings import Partings
from audio_batch.pipeline import Job
from audio_batch.plan import Action
from audio_batch.pools import Pool


@dataclass(slots=True)
class Departures:
    """See the module's docstring. The runner's thread only; everything in it is the runner's.

    `copies`: whether what runs late is done once more elsewhere. `awaited`: whether a run without
    any device waits for one to join. `in_service`: the devices that are not out. `total` is how
    many assets there are to do in this run, `positions` by asset which of them it is.
    """

    journal: Journal
    run_id: int
    guards: Guards
    backlog: Backlog
    flights: Flights
    partings: Partings
    dispatcher: Dispatch
    pool: Pool
    news: News
    status_line: Callable[[], str]
    copies: bool
    awaited: Callable[[], bool]
    in_service: Callable[[], Sequence[str]]
    tries: Counter[str]
    positions: dict[str, int]
    emit: Callable[[events.Event], None]
    now_s: Callable[[], float]
    total: int = 0
    _waiting: list[Flight] = field(default_factory=list)
    _claims: Iterator[int] = field(default_factory=itertools.count)
    _serials: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __len__(self) -> int:
        """How many have begun and are to depart."""
        return len(self._waiting)

    def begin_all(self, may_begin: Callable[[], bool]) -> None:
        """Begin what there is room for.

        Raises:
            SetupError: no device is left, and nothing is at work; or the journal fails.
        """
        while may_begin():
            self.backlog.take_due()
            self.backlog.take_tries(self.now_s(), self.in_service)
            try:
                beginning = self.dispatcher.next(self.now_s())
            except SetupError:
                # What runs on a device that was taken out may still end well.
                if len(self.flights) or self.awaited():
                    return
                raise
            if beginning is None:
                if self.backlog.only_held:
                    self._copy()
                return
            self.backlog.remove(beginning.planned)
            self._begin(beginning)

    def depart(self) -> None:
        """What has begun is committed: the workers get it."""
        departing, self._waiting = self._waiting, []
        for flight in departing:
            self.pool.submit(flight.job, started=self.news.started, finished=self.news.finished)

    def recall(self) -> None:
        """What has begun could not be committed, and nobody has heard of it."""
        for flight in self._waiting:
            self.flights.remove(flight)
            self.guards.floor.ended(flight.job.key)
            flight.release()
            self.tries[flight.job.key] -= 1
            self.backlog.put_back(flight.planned)
        self._waiting.clear()

    def _begin(self, beginning: Beginning) -> None:
        planned, device = beginning.planned, beginning.device
        asset = planned.asset
        division = self.partings.of(planned)
        attempt = division.attempt if division is not None else None
        try:
            if attempt is None:
                attempt = self.journal.start(
                    asset.id,
                    name=asset.name,
                    source=planned.source,
                    fingerprint=planned.fingerprint,
                    rendering=planned.rendering,
                    device=device.id,
                    run_id=self.run_id,
                )
        except BaseException:
            if beginning.lease is not None:
                beginning.lease.release()
            self.backlog.put_back(planned)
            raise
        if division is not None:
            division.attempt = attempt
            if planned.part is None:
                self.partings.begun(planned)
        claim = ""
        whole = planned.action is Action.PROCESS and planned.part is None
        if self.copies and whole and not planned.suspect:
            claim = f"{self.run_id}-{next(self._claims)}"
        job = job_of(
            planned,
            device.id,
            attempt,
            self.positions[asset.id],
            self.total,
            claim=claim,
            serial=next(self._serials),
        )
        self.tries[job.key] += 1
        self._add(job, beginning)

    def _copy(self) -> None:
        """At the end: do what runs late once more elsewhere. The first one to be done counts."""
        while self.copies and (late := self.dispatcher.copy(self.now_s())) is not None:
            flight, lease = late
            device = lease.device
            serial = next(self._serials)
            job = replace(flight.job, device=device.id, copy=True, serial=serial)
            self._add(job, Beginning(flight.planned, device, lease, None))
            text = f"{flight.job.asset.name} takes long on {flight.job.device}: "
            self.emit(events.Notice(f"{text}it is done on {device.id} too."))

    def _add(self, job: Job, beginning: Beginning) -> None:
        planned, device = beginning.planned, beginning.device
        now_s = self.now_s()
        ladder = self.guards.ladder
        flight = Flight(
            planned,
            job,
            device,
            beginning.lease,
            self.status_line(),
            begun_s=now_s,
            told_s=now_s,
            since_s=now_s,
            duration_s=job.asset.duration_s,
            expected_s=beginning.expected_s,
            steps=ladder.steps(device.id) if ladder else 0,
            area=self.dispatcher.touch(device.id, now_s),
            queued=beginning.queued,
        )
        self.flights.add(flight)
        self.guards.floor.begun(job.key, self.guards.need_bytes(planned))
        self._waiting.append(flight)
