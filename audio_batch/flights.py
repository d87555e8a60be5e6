"""What the runner holds of a job that a worker has, from its start to its outcome."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from audio_batch import events
from audio_batch.gpu.balancer import Lease
from audio_batch.outcome import Outcome, Stage, StageRecord, State
from audio_batch.pipeline import Job
from audio_batch.plan import Action, Planned


@dataclass(slots=True)
class Flight:
    """A job at work. Its times are `watchdog.Ticker.awake_s`, without the machine's sleep.

    `stage` is what it last told to be at, `duration_s` the length of its recording as far as it is
    known. `steps` is how far down its device was on the ladder of memory when it began.
    """

    planned: Planned
    job: Job
    lease: Lease
    status_line: str
    begun_s: float
    told_s: float
    stage: str = ""
    duration_s: float | None = None
    steps: int = 0

    def told(self, event: events.AssetProgress, now_s: float) -> None:
        """Progress was made."""
        self.told_s = now_s
        self.stage = event.stage
        if event.duration_s > 0:
            self.duration_s = event.duration_s

    def outcome(self, state: State, **more: object) -> Outcome:
        """What became of it, where the worker cannot say."""
        return Outcome(
            asset_id=self.job.asset.id,
            state=state,
            fingerprint=self.job.fingerprint,
            device=self.job.device,
            rendered_only=self.job.published is not None,
            **more,  # type: ignore[arg-type]
        )


def job_of(planned: Planned, device: str, attempt: int, position: int, total: int) -> Job:
    """The next attempt at an asset, as plain values."""
    return Job(
        asset=planned.asset,
        decoding=planned.decoding,
        formats=planned.formats,
        output_name=planned.output_name,
        source=planned.source,
        fingerprint=planned.fingerprint,
        device=device,
        attempt=attempt,
        position=position,
        total=total,
        stages=planned.stages,
        limits=planned.limits,
        kept=planned.kept,
        suspect=planned.suspect,
        redo=planned.redo,
        published=planned.published if planned.action is Action.RENDER else None,
    )


def carried_on(planned: Planned, records: Sequence[StageRecord]) -> Planned:
    """The asset as it is to be tried again: from the stages that this attempt did."""
    done = {record.stage: record for record in records}
    kept = {**planned.kept, **done}
    if Stage.TRANSCRIBE in done and Stage.ALIGN not in done:
        kept.pop(Stage.ALIGN, None)  # the times of other words
    return replace(planned, kept=kept)


class Flights:
    """The jobs at work, by asset. One thread only."""

    def __init__(self) -> None:
        self._by_asset: dict[str, Flight] = {}

    def __len__(self) -> int:
        return len(self._by_asset)

    def values(self) -> Collection[Flight]:
        """All of them."""
        return self._by_asset.values()

    def add(self, flight: Flight) -> None:
        """A job begins."""
        self._by_asset[flight.job.asset.id] = flight

    def remove(self, flight: Flight) -> None:
        """A job has ended."""
        del self._by_asset[flight.job.asset.id]

    def get(self, asset_id: str) -> Flight | None:
        """What is at work at an asset."""
        return self._by_asset.get(asset_id)

    def holds(self, job: Job) -> bool:
        """Whether this very attempt is at work, not a later one at the same asset."""
        flight = self._by_asset.get(job.asset.id)
        return flight is not None and flight.job is job

    def of(self, job: Job) -> Flight:
        """The flight of a job that is at work."""
        return self._by_asset[job.asset.id]

    def on(self, device: str) -> list[Flight]:
        """What is at work on a device."""
        return [flight for flight in self._by_asset.values() if flight.job.device == device]
