"""A past run as something to simulate: recordings, and devices as its journal shows them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from audio_batch.journal import JournalEntry
from audio_batch.outcome import State
from audio_batch.schedule.simulation import SimulatedDevice, SimulatedJob
from audio_batch.schedule.speeds import Speeds

_DONE = (State.DONE, State.INCOMPLETE)


@dataclass(frozen=True, slots=True)
class Past:
    """What a journal tells.

    Attributes:
        jobs: by when they began.
        devices: with as many slots as were at work at once, and the speeds that the schedule would
            have learnt.
        wall_s: from the first begin to the last end.
        left_out: assets that were not done, or that say nothing of their time.
    """

    jobs: tuple[SimulatedJob, ...]
    devices: tuple[SimulatedDevice, ...]
    wall_s: float
    left_out: int


@dataclass(frozen=True, slots=True)
class _Done:
    asset_id: str
    device: str
    duration_s: float
    begun_s: float
    ended_s: float


def past(entries: Iterable[JournalEntry]) -> Past:
    """Read the last run that did anything in a journal.

    What was not done in it, or was only rendered again, is left out. How long an asset was at work
    includes what it waited while it was read ahead: so do the slots.
    """
    count = last = 0
    spans: list[_Done] = []
    for entry in entries:
        count += 1
        done = _done(entry)
        if done is None or entry.run_id < last:
            continue
        if entry.run_id > last:
            last = entry.run_id
            spans.clear()
        spans.append(done)
    spans.sort(key=lambda done: done.begun_s)
    if not spans:
        return Past((), (), 0.0, count)
    by_device: defaultdict[str, list[_Done]] = defaultdict(list)
    for done in spans:
        by_device[done.device].append(done)
    speeds = Speeds()
    devices = []
    for device, theirs in sorted(by_device.items()):
        most = _learn(speeds, device, theirs)
        speed = speeds.learnt(device)
        if speed is not None:
            devices.append(SimulatedDevice(device, most, speed))
    return Past(
        jobs=tuple(SimulatedJob(done.asset_id, done.duration_s) for done in spans),
        devices=tuple(devices),
        wall_s=max(done.ended_s for done in spans) - spans[0].begun_s,
        left_out=count - len(spans),
    )


def _done(entry: JournalEntry) -> _Done | None:
    begun_s, ended_s = entry.started_at, entry.finished_at
    if entry.state not in _DONE or entry.device is None or not entry.duration_s:
        return None
    if begun_s is None or ended_s is None or ended_s <= begun_s:
        return None
    # A run that only writes other formats begins the asset anew, but its stages' times stay.
    if ended_s - begun_s < 0.5 * sum(entry.timings_s.values()):
        return None
    return _Done(entry.asset_id, entry.device, entry.duration_s, begun_s, ended_s)


def _learn(speeds: Speeds, device: str, spans: Sequence[_Done]) -> int:
    """Let `speeds` see the jobs of a device as they ended; return how many were at work at once."""
    # Ends before begins: who takes the place of another was never beside it.
    moments = sorted(
        [(done.begun_s, 1, number) for number, done in enumerate(spans)]
        + [(done.ended_s, 0, number) for number, done in enumerate(spans)]
    )
    company_s: dict[int, float] = {}
    most, before_s = 1, moments[0][0]
    for moment_s, begins, number in moments:
        for other in company_s:
            company_s[other] += len(company_s) * (moment_s - before_s)
        before_s = moment_s
        if begins:
            company_s[number] = 0.0
            most = max(most, len(company_s))
            continue
        done = spans[number]
        wall_s = done.ended_s - done.begun_s
        active = max(1, round(company_s.pop(number) / wall_s))
        speeds.observe(device, active, done.duration_s, wall_s)
    return most
