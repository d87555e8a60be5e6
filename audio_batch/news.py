"""What workers tell of their jobs: said in their threads, acted on in the runner's.

started, progress    → event
stage done           → journal.finish_stage
published            → journal.publish_early
finished             → Endings.end
died                 → Mishaps.died
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from audio_batch import events
from audio_batch.control import Inbox
from audio_batch.endings import Endings
from audio_batch.flights import Flights, carried_on
from audio_batch.holds import Holds
from audio_batch.journal import Journal
from audio_batch.mishaps import Mishaps
from audio_batch.outcome import Published, StageRecord
from audio_batch.pipeline import Job
from audio_batch.pools import Death, Finished
from audio_batch.tell import Tell


@dataclass(slots=True)
class News:
    """See the module's docstring. Everything in it is the runner's.

    What is public may be called in any thread: it leaves a message in the inbox. `endings` and
    `mishaps` are made with the pool, which needs to know whom to tell, and follow.
    """

    inbox: Inbox
    journal: Journal
    flights: Flights
    given_up: set[int]
    holds: Holds
    emit: Callable[[events.Event], None]
    now_s: Callable[[], float]
    endings: Endings = field(init=False)
    mishaps: Mishaps = field(init=False)

    def tell(self) -> Tell:
        """What a worker calls while it is at an asset."""
        return Tell(
            progress=lambda event: self.inbox.put(lambda: self._progressed(event)),
            stage_done=lambda record: self.inbox.put(lambda: self._stage_done(record)),
            published=self._published,
            given_up=lambda job: job.serial in self.given_up,
        )

    def started(self, job: Job, worker: str) -> None:
        """A worker has begun a job."""
        self.inbox.put(lambda: self._started(job, worker))

    def finished(self, finished: Finished) -> None:
        """A worker has ended a job."""
        self.inbox.put(lambda: self._finished(finished))

    def died(self, death: Death) -> None:
        """The process of a device has ended by itself."""
        self.inbox.put(lambda: self.mishaps.died(death))

    def _published(self, published: Published) -> None:
        self.inbox.put(lambda: self.journal.publish_early(published))

    # -- the runner's thread ----------------------------------------------------------------------

    def _stage_done(self, record: StageRecord) -> None:
        flight = self.flights.get(record.asset_id)
        if flight is None or flight.abandoned:
            return  # a copy of it has been done meanwhile
        self.journal.finish_stage(record)
        if flight.job.source == record.source:
            # Should this attempt end with its process, the next one goes on from here.
            flight.planned = carried_on(flight.planned, (record,))

    def _progressed(self, event: events.AssetProgress) -> None:
        flight = self.flights.get(event.key)
        if flight is not None and flight.job.device == event.device:
            flight.told(event, self.now_s())
            self.holds.progressed(flight, event)
            self.emit(event)

    def _started(self, job: Job, worker: str) -> None:
        if not self.flights.holds(job):
            return
        flight = self.flights.of(job)
        self.emit(
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
        if self.flights.holds(finished.job):  # else it was given up in this very moment
            self.endings.end(self.flights.of(finished.job), finished.outcome, finished.worker)
