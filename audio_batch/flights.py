"""What the runner holds of a job that a worker has, from its start to its outcome."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from audio_batch import events
from audio_batch.gpu.balancer import Lease
from audio_batch.gpu.devices import Device
from audio_batch.outcome import Outcome, Stage, StageRecord, State
from audio_batch.pipeline import Job
from audio_batch.plan import Action, Planned
from audio_batch.storage import PublishedFile


@dataclass(slots=True)
class Flight:
    """A job at work. Its times are `watchdog.Ticker.awake_s`, without the machine's sleep.

    `lease` is its slot, None while it is read ahead. `stage` is what it last told to be at,
    `duration_s` the length of its recording as far as it is known. `steps` is how far down its
    device was on the ladder of memory when it began. `begun_s` and `since_s` are when it began, and
    later by the time it has waited: for its limits and for what it has cost. `queued`: it has no
    slot and needs one. `abandoned`: its outcome will be of no use to anybody.
    """

    planned: Planned
    job: Job
    device: Device
    lease: Lease | None
    status_line: str
    begun_s: float
    told_s: float
    since_s: float
    stage: str = ""
    waiting: bool = False
    duration_s: float | None = None
    expected_s: float | None = None
    steps: int = 0
    area: float = 0.0
    queued: bool = False
    abandoned: bool = False

    def told(self, event: events.AssetProgress, now_s: float) -> None:
        """Progress was made, or it waits while others make some."""
        waiting = event.stage.endswith(events.WAITING)
        if self.waiting:  # since it last told
            self.begun_s += now_s - self.told_s
            self.since_s += now_s - self.told_s
        self.waiting = waiting
        self.told_s = now_s
        self.stage = event.stage
        if event.duration_s > 0:
            self.duration_s = event.duration_s

    def release(self) -> None:
        """Give back the slot, if it has one."""
        if self.lease is not None:
            self.lease.release()

    def outcome(self, state: State, **more: object) -> Outcome:
        """What became of it, where the worker cannot say."""
        return Outcome(
            asset_id=self.job.asset.id,
            state=state,
            fingerprint=self.job.fingerprint,
            device=self.job.device,
            rendered_only=self.job.published is not None,
            part=self.job.part.label if self.job.part else "",
            **more,  # type: ignore[arg-type]
        )


def job_of(
    planned: Planned,
    device: str,
    attempt: int,
    position: int,
    total: int,
    *,
    claim: str = "",
    serial: int = 0,
) -> Job:
    """The next attempt at an asset, as plain values."""
    return Job(
        asset=planned.asset,
        decoding=planned.decoding,
        formats=planned.formats,
        output_name=planned.output_name,
        source=planned.source,
        fingerprint=planned.fingerprint,
        rendering=planned.rendering,
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
        claim=claim,
        serial=serial,
        part=planned.part,
        parts=planned.parts,
        replaces=planned.replaces,
    )


def unseen(planned: Planned) -> Planned:
    """The asset after an attempt whose end nobody has seen: it may have published any of it."""
    return replace(planned, replaces=planned.formats)


def written_over(planned: Planned, left: Sequence[PublishedFile]) -> Planned:
    """The asset after an attempt that has left outputs: the next one writes over them."""
    formats = {file.format for file in left}.difference(planned.replaces)
    return replace(planned, replaces=(*planned.replaces, *sorted(formats))) if formats else planned


def carried_on(planned: Planned, records: Sequence[StageRecord]) -> Planned:
    """The asset as it is to be tried again: from the stages that this attempt did."""
    if not records:
        return planned
    done = {record.stage: record for record in records}
    kept = {**planned.kept, **done}
    if Stage.TRANSCRIBE in done and Stage.ALIGN not in done:
        kept.pop(Stage.ALIGN, None)  # the times of other words
    return replace(planned, kept=kept)


class Flights:
    """The jobs at work, in the order in which they began. One thread only.

    Those that were abandoned are in it until they end, since they hold what they hold.
    """

    def __init__(self) -> None:
        self._by_key: dict[str, Flight] = {}
        self._by_device: dict[str, dict[str, Flight]] = {}
        self._by_asset: dict[str, list[Flight]] = {}
        self._abandoned = 0
        self.suspects = 0
        """How many of them are suspect (`Planned.suspect`)."""

    def __len__(self) -> int:
        """How many there are to wait for."""
        return len(self._by_key) - self._abandoned

    @property
    def held(self) -> int:
        """How many there are with those that were abandoned."""
        return len(self._by_key)

    def values(self) -> Collection[Flight]:
        """All of them."""
        return self._by_key.values()

    def abandon(self, flight: Flight) -> None:
        """Wait for it no longer."""
        flight.abandoned = True
        self._abandoned += 1

    def others(self, flight: Flight) -> list[Flight]:
        """What else is at work on the whole of the same asset, and of use."""
        return [
            other
            for other in self._by_asset.get(flight.job.asset.id, ())
            if other is not flight and not other.abandoned and other.job.part is None
        ]

    def add(self, flight: Flight) -> None:
        """A job begins."""
        self.suspects += flight.job.suspect
        self._by_key[flight.job.key] = flight
        self._by_device.setdefault(flight.job.device, {})[flight.job.key] = flight
        self._by_asset.setdefault(flight.job.asset.id, []).append(flight)

    def remove(self, flight: Flight) -> None:
        """A job has ended."""
        del self._by_key[flight.job.key]
        del self._by_device[flight.job.device][flight.job.key]
        self._abandoned -= flight.abandoned
        self.suspects -= flight.job.suspect
        of_asset = self._by_asset[flight.job.asset.id]
        of_asset.remove(flight)
        if not of_asset:
            del self._by_asset[flight.job.asset.id]

    def get(self, key: str) -> Flight | None:
        """What is at work under a job's key."""
        return self._by_key.get(key)

    def has(self, planned: Planned) -> bool:
        """Whether a job of that very asset or part is at work, abandoned or not."""
        share = planned.part.label if planned.part is not None else ""
        return events.job_key(planned.asset.id, share) in self._by_key

    def holds(self, job: Job) -> bool:
        """Whether this very attempt is at work, not a later one at the same asset."""
        flight = self._by_key.get(job.key)
        return flight is not None and flight.job is job

    def of(self, job: Job) -> Flight:
        """The flight of a job that is at work."""
        return self._by_key[job.key]

    def count_on(self, device: str) -> int:
        """How many there are on a device."""
        return len(self._by_device.get(device, ()))

    def on(self, device: str) -> list[Flight]:
        """What is at work on a device, in the order in which it began."""
        return list(self._by_device.get(device, {}).values())
